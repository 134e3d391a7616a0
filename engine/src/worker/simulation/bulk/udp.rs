//! UDP.

use super::*;

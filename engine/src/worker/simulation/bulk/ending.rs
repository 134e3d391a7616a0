//! How streams end when nobody meant them to.

use super::*;

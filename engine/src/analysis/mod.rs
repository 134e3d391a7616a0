//! Statistics over what was recorded, and judgement over results. No socket, thread or clock.

pub mod assertion;
pub mod compare;
pub mod health;
pub mod later;
pub mod link;
pub mod mean;
pub mod pool;
pub mod quantile;
pub mod summary;

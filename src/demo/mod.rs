//! The whole story on loopback, with doubles of the push services.

pub mod apns_double;
mod double;
pub mod fcm_double;

pub use double::Recorded;

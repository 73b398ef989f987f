//! Pushes over real sockets against doubles of the push services.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod addresses;
mod apns;
mod bench;
mod breaker;
mod callback;
mod fcm;
mod front;
mod google;
mod http2;
mod huawei;
mod limits;
mod load;
mod one_phone;
mod purpose;
mod push_ids;
mod ranks;
mod relay;
mod rustore;
mod silence;
mod tls;
mod webpush;

//! Buckets: what only they do, right and wrong.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;
#[path = "bucket/copying.rs"]
mod copying;
#[path = "bucket/faults.rs"]
mod faults;
#[path = "bucket/listing.rs"]
mod listing;
#[path = "bucket/mounted.rs"]
mod mounted;
#[path = "bucket/reading.rs"]
mod reading;
#[path = "common/s3.rs"]
mod s3;
#[path = "bucket/support.rs"]
mod support;
#[path = "bucket/writing.rs"]
mod writing;

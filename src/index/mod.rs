//! All SQL: what is known, kept where a restart finds it again.

pub mod served;

//! The row codec.

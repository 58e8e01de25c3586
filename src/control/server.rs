//! Being asked from outside.

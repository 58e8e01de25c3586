//! Asking runs from outside.

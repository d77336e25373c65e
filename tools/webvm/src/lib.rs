//! The test guest.

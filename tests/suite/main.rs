//! The hermetic tests: parallel, without Docker, without root.

mod tidy;

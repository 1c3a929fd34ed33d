//! Drives real EchoNet processes for the scenarios.

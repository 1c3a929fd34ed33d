//! Who is asked what, is the answer right, and what is a node's word worth.
//!
//! This crate will hold the witness's decisions: the sampler that turns a
//! beacon into challenges, the verifier that accepts or refuses an answer, the
//! chain of signed verdicts, and the integer fold from verdicts to a score.
//!
//! It never opens a socket or a file, never reads a clock, never draws a random
//! number, and never moves a score without a verdict that the node concerned
//! can read first. Time, beacon and answers are passed in.

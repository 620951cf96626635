//! The house: configuration, listeners, the pipeline, workers, the command line.
pub mod shop;
pub mod upstream;

//! Streaming qcow2 writer

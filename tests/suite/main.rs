//! The end-to-end suite: one binary, so that all of its tests share one lab.

mod lab_works;

//! `remora cp`

use remora_core::{Error, ErrorKind, Result};

use crate::args;
use crate::context::Context;

pub(super) async fn run(_context: &Context, _args: args::Cp) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "not yet"))
}

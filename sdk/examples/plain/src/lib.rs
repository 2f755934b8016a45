//! A mover for the plainest server of objects that can be thought of: the one that `remora plugin test` brings with it, whose
//! protocol `docs/plugins.md` describes. Where to begin with a mover of your own.
//!
//! Settings: `endpoint` (`https://host:port`). The token that the server wants to see is the secret `token`.

mod plain;

remora_sdk::objects!(plain::Plain);

//! The handshake: options up to the export's size and contexts.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::NbdError;
use crate::parse::{self, BlockSizes, GREETING_LEN, Info, OPTION_REPLY_LEN, OptionReply};
use crate::proto::{
    FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, INFO_BLOCK_SIZE, OPT_GO, OPT_LIST, OPT_SET_META_CONTEXT, OPT_STRUCTURED_REPLY,
    OPTION_MAGIC, REP_ACK, REP_ERR_UNKNOWN, REP_ERROR_BIT, REP_INFO, REP_META_CONTEXT, REP_SERVER,
};

/// More replies than this to one option are a lie.
const REPLIES: usize = 1000;

/// The largest request where the server names no limit of its own.
const DEFAULT_MAX_REQUEST: u32 = 32 * 1024 * 1024;

/// What carries the bytes.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// What the handshake settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    pub(crate) size: u64,
    pub(crate) structured: bool,
    /// Requests must be multiples of this.
    pub(crate) min_block: u32,
    pub(crate) max_request: u32,
    /// The granted contexts with their ids.
    pub(crate) contexts: Vec<(u32, String)>,
}

/// Negotiates; afterwards the stream carries requests and replies.
pub(crate) async fn negotiate(
    stream: &mut impl Wire,
    export: &str,
    contexts: &[String],
) -> Result<Negotiated, NbdError> {
    let mut greeting = [0; GREETING_LEN];
    stream.read_exact(&mut greeting).await?;
    let flags = parse::greeting(&greeting)?;
    if flags & FLAG_FIXED_NEWSTYLE == 0 {
        return Err(NbdError::Protocol("it does not speak fixed newstyle"));
    }
    stream.write_u32(u32::from(flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES))).await?;
    let structured = structured_replies(stream).await?;
    let contexts =
        if structured && !contexts.is_empty() { meta_contexts(stream, export, contexts).await? } else { Vec::new() };
    go(stream, export, structured, contexts).await
}

async fn send(stream: &mut impl Wire, option: u32, payload: &[u8]) -> Result<(), NbdError> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(length(payload)?);
    bytes.extend(payload);
    Ok(stream.write_all(&bytes).await?)
}

fn length(bytes: &[u8]) -> Result<[u8; 4], NbdError> {
    u32::try_from(bytes.len())
        .map(u32::to_be_bytes)
        .map_err(|_| NbdError::Refused { what: "a name", message: "it is over 4 GiB".into() })
}

/// Receives one reply to `option` with its payload.
async fn receive(stream: &mut impl Wire, option: u32) -> Result<(OptionReply, Vec<u8>), NbdError> {
    let mut head = [0; OPTION_REPLY_LEN];
    stream.read_exact(&mut head).await?;
    let reply = parse::option_reply(&head)?;
    if reply.option != option {
        return Err(NbdError::Protocol("it answers another option"));
    }
    let mut payload = vec![0; reply.len as usize];
    stream.read_exact(&mut payload).await?;
    Ok((reply, payload))
}

/// Receives replies to `option` until the last; `each` takes the ones in between. Gives the last if it is an error.
async fn receive_all(
    stream: &mut impl Wire,
    option: u32,
    mut each: impl FnMut(u32, &[u8]) -> Result<(), NbdError>,
) -> Result<Option<(u32, String)>, NbdError> {
    for _ in 0..REPLIES {
        let (reply, payload) = receive(stream, option).await?;
        match reply.kind {
            REP_ACK => return Ok(None),
            kind if kind & REP_ERROR_BIT != 0 => {
                return Ok(Some((kind, String::from_utf8_lossy(&payload).into_owned())));
            }
            kind => each(kind, &payload)?,
        }
    }
    Err(NbdError::Protocol("an option gets endless replies"))
}

async fn structured_replies(stream: &mut impl Wire) -> Result<bool, NbdError> {
    send(stream, OPT_STRUCTURED_REPLY, &[]).await?;
    let refused = receive_all(stream, OPT_STRUCTURED_REPLY, |_, _| Ok(())).await?;
    Ok(refused.is_none())
}

async fn meta_contexts(
    stream: &mut impl Wire,
    export: &str,
    wanted: &[String],
) -> Result<Vec<(u32, String)>, NbdError> {
    let mut payload = length(export.as_bytes())?.to_vec();
    payload.extend(export.as_bytes());
    payload.extend((wanted.len() as u32).to_be_bytes());
    for context in wanted {
        payload.extend(length(context.as_bytes())?);
        payload.extend(context.as_bytes());
    }
    send(stream, OPT_SET_META_CONTEXT, &payload).await?;
    let mut granted: Vec<(u32, String)> = Vec::new();
    let refused = receive_all(stream, OPT_SET_META_CONTEXT, |kind, payload| {
        let (id, name) = match kind {
            REP_META_CONTEXT => parse::meta_context(payload)?,
            _ => return Err(NbdError::Protocol("a context is granted in another way")),
        };
        if !wanted.contains(&name) || granted.iter().any(|known| known.0 == id || known.1 == name) {
            return Err(NbdError::Protocol("it grants a context that was not asked for, or twice"));
        }
        granted.push((id, name));
        Ok(())
    });
    match refused.await? {
        Some((REP_ERR_UNKNOWN, _)) => Err(unknown_export(stream, export).await?),
        Some(_) => Ok(Vec::new()),
        None => Ok(granted),
    }
}

async fn go(
    stream: &mut impl Wire,
    export: &str,
    structured: bool,
    contexts: Vec<(u32, String)>,
) -> Result<Negotiated, NbdError> {
    let mut payload = length(export.as_bytes())?.to_vec();
    payload.extend(export.as_bytes());
    payload.extend(1_u16.to_be_bytes());
    payload.extend(INFO_BLOCK_SIZE.to_be_bytes());
    send(stream, OPT_GO, &payload).await?;
    let (mut size, mut blocks) = (None, BlockSizes { min: 1, preferred: 4096, max: DEFAULT_MAX_REQUEST });
    let refused = receive_all(stream, OPT_GO, |kind, payload| {
        if kind == REP_INFO {
            match parse::info(payload)? {
                Info::Export { size: told } => size = Some(told),
                Info::BlockSizes(told) => blocks = told,
                Info::Other => {}
            }
        }
        Ok(())
    });
    match refused.await? {
        Some((REP_ERR_UNKNOWN, _)) => Err(unknown_export(stream, export).await?),
        Some((_, message)) => Err(NbdError::Refused { what: "to open the export", message }),
        None => {
            let size = size.ok_or(NbdError::Protocol("it tells no size of the export"))?;
            if !blocks.hold_for(size) {
                return Err(NbdError::Protocol("its block sizes make no sense"));
            }
            let max_request = blocks.max.min(DEFAULT_MAX_REQUEST);
            Ok(Negotiated { size, structured, min_block: blocks.min, max_request, contexts })
        }
    }
}

/// The error for an export that the server does not have; it is asked for those that it has.
async fn unknown_export(stream: &mut impl Wire, export: &str) -> Result<NbdError, NbdError> {
    send(stream, OPT_LIST, &[]).await?;
    let mut available = Vec::new();
    receive_all(stream, OPT_LIST, |kind, payload| {
        if kind == REP_SERVER {
            available.push(parse::listed_export(payload)?);
        }
        Ok(())
    })
    .await?;
    Ok(NbdError::ExportNotFound { export: export.into(), available })
}

//! As much HTTP/1.1 as a server of the tests needs: a thread for each connection, one request after another, bodies with a length.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use crate::process::Must;

/// A request.
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    /// By their names in lower case.
    headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// A header; nothing if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What is answered. Whoever asks for the head alone is told how long the body is.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl From<(u16, Vec<u8>)> for Reply {
    fn from((status, body): (u16, Vec<u8>)) -> Self {
        Self { status, headers: Vec::new(), body }
    }
}

/// Answers whoever asks, until the process ends. Its address.
pub(crate) fn serve<R: Into<Reply>>(answer: impl Fn(&Asked) -> R + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").must("listen on loopback");
    let address = listener.local_addr().must("know one's own address");
    let answer = Arc::new(move |asked: &Asked| -> Reply { answer(asked).into() });
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            // Whoever asks may go away in the middle.
            std::thread::spawn(move || converse(&connection, &*answer).ok());
        }
    });
    address
}

fn converse(connection: &TcpStream, answer: &dyn Fn(&Asked) -> Reply) -> io::Result<()> {
    // Heads and bodies are sent one after the other: a body is not to wait until its head is acknowledged.
    connection.set_nodelay(true)?;
    let mut from = BufReader::new(connection);
    let mut to = connection;
    while let Some(asked) = read(&mut from)? {
        let Reply { status, headers, body } = answer(&asked);
        let mut head = Vec::new();
        write!(head, "HTTP/1.1 {status} .\r\n")?;
        if status != 204 {
            write!(head, "content-length: {}\r\n", body.len())?;
        }
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n")?;
        }
        head.extend_from_slice(b"\r\n");
        to.write_all(&head)?;
        if asked.method != "HEAD" {
            to.write_all(&body)?;
        }
    }
    Ok(())
}

fn read(from: &mut impl BufRead) -> io::Result<Option<Asked>> {
    let mut first = String::new();
    if from.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let strange = || io::Error::from(io::ErrorKind::InvalidData);
    let mut words = first.split(' ');
    let (method, target) = (words.next().ok_or_else(strange)?, words.next().ok_or_else(strange)?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect();
    let mut asked =
        Asked { method: method.into(), path: path.into(), query, headers: BTreeMap::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        asked.headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = match asked.header("content-length") {
        "" => 0,
        length => length.parse().map_err(|_| strange())?,
    };
    from.take(length).read_to_end(&mut asked.body)?;
    Ok(Some(asked))
}

/// Without percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits: Vec<u8> = if byte == b'%' { rest.by_ref().take(2).collect() } else { Vec::new() };
        let number = std::str::from_utf8(&digits).ok().and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(number.unwrap_or(byte));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

//! As much HTTP/1.1 as an appliance needs: a thread for each connection, one request after another, bodies with a length.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use crate::process::Must;

/// A request.
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) authorization: String,
    pub(super) body: Vec<u8>,
}

/// A status and a body.
pub(super) type Reply = (u16, Vec<u8>);

/// Answers whoever asks, until the process ends. Its address.
pub(super) fn serve(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").must("listen on loopback");
    let address = listener.local_addr().must("know one's own address");
    let answer = Arc::new(answer);
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
    let mut from = BufReader::new(connection);
    let mut to = connection;
    while let Some(asked) = read(&mut from)? {
        let (status, body) = answer(&asked);
        let head = if status == 204 { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        to.write_all(format!("HTTP/1.1 {status} .\r\n{head}\r\n").as_bytes())?;
        to.write_all(&body)?;
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
        Asked { method: method.into(), path: path.into(), query, authorization: String::new(), body: Vec::new() };
    let mut length = 0;
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(|_| strange())?,
            "authorization" => asked.authorization = value.trim().into(),
            _ => {}
        }
    }
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

//! What the component imports: each function asks the host, but for clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use wasmtime::Result as Trappable;
use wasmtime::component::Resource;

use super::super::wire::{Answer, Ask, DigestKind};
use super::super::words::{self, MoverError};
use super::bindings::objects::exports::remora::mover::objects;
use super::bindings::objects::remora::mover::{errors, host_io, log, task};
use super::bindings::{Buffer, Pending, Secret, Sink};
use super::instance::Guest;

/// What the host answered is not what was asked: a fault of ours.
fn confused<T>(answer: &Answer) -> Trappable<T> {
    Err(wasmtime::format_err!("the host answered something else: {answer:?}"))
}

impl Guest {
    fn nothing(&mut self, ask: Ask) -> Trappable<Result<(), errors::Error>> {
        match self.ask(ask)? {
            Answer::Nothing => Ok(Ok(())),
            Answer::Error(error) => Ok(Err(told(error))),
            other => confused(&other),
        }
    }

    fn bytes(&mut self, ask: Ask) -> Trappable<Vec<u8>> {
        match self.ask(ask)? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => confused(&other),
        }
    }

    fn handle<T>(&mut self, ask: Ask) -> Trappable<Result<Resource<T>, errors::Error>>
    where
        T: 'static,
    {
        match self.ask(ask)? {
            Answer::Handle(number) => Ok(Ok(Resource::new_own(number))),
            Answer::Error(error) => Ok(Err(told(error))),
            other => confused(&other),
        }
    }

    /// Of a function that has no error of its own.
    fn sure_handle<T: 'static>(&mut self, ask: Ask) -> Trappable<Resource<T>> {
        self.handle(ask)?.map_err(|error| wasmtime::format_err!("{}", error.message))
    }
}

impl errors::Host for Guest {}

impl host_io::Host for Guest {
    fn submit(&mut self, request: host_io::Request) -> Trappable<Result<Resource<Pending>, errors::Error>> {
        self.filled = None;
        self.handle(Ask::Submit(planned(request)))
    }
}

impl host_io::HostBuffer for Guest {
    fn len(&mut self, _: Resource<Buffer>) -> Trappable<u64> {
        Ok(self.buffer)
    }

    fn sha256(&mut self, _: Resource<Buffer>) -> Trappable<Vec<u8>> {
        if let Some(known) = &self.sha256 {
            return Ok(known.clone());
        }
        self.bytes(Ask::Digest(DigestKind::Sha256))
    }

    fn md5(&mut self, _: Resource<Buffer>) -> Trappable<Vec<u8>> {
        self.bytes(Ask::Digest(DigestKind::Md5))
    }

    fn read(&mut self, _: Resource<Buffer>, offset: u64, len: u32) -> Trappable<Vec<u8>> {
        self.bytes(Ask::Read { offset, len })
    }

    fn drop(&mut self, _: Resource<Buffer>) -> Trappable<()> {
        Ok(())
    }
}

impl host_io::HostSink for Guest {
    fn capacity(&mut self, _: Resource<Sink>) -> Trappable<u64> {
        Ok(self.sink)
    }

    fn len(&mut self, _: Resource<Sink>) -> Trappable<u64> {
        if let Some(len) = self.filled {
            return Ok(len);
        }
        match self.ask(Ask::SinkLen)? {
            Answer::Number(len) => Ok(len),
            other => confused(&other),
        }
    }

    fn write(&mut self, _: Resource<Sink>, data: Vec<u8>) -> Trappable<Result<(), errors::Error>> {
        self.filled = None;
        self.nothing(Ask::SinkWrite(data))
    }

    fn drop(&mut self, _: Resource<Sink>) -> Trappable<()> {
        Ok(())
    }
}

impl host_io::HostSecret for Guest {
    fn get(&mut self, name: String) -> Trappable<Result<Resource<Secret>, errors::Error>> {
        self.handle(Ask::Secret(name))
    }

    fn hmac_sha256(&mut self, secret: Resource<Secret>, data: Vec<u8>) -> Trappable<Vec<u8>> {
        self.bytes(Ask::Hmac { secret: secret.rep(), data })
    }

    fn derive_hmac_sha256(&mut self, secret: Resource<Secret>, data: Vec<u8>) -> Trappable<Resource<Secret>> {
        self.sure_handle(Ask::Derive { secret: secret.rep(), data })
    }

    fn prefixed(&mut self, secret: Resource<Secret>, prefix: String) -> Trappable<Resource<Secret>> {
        self.sure_handle(Ask::Prefixed { secret: secret.rep(), prefix })
    }

    fn drop(&mut self, secret: Resource<Secret>) -> Trappable<()> {
        self.ask(Ask::ForgetSecret(secret.rep())).map(drop)
    }
}

impl host_io::HostPending for Guest {
    fn wait(&mut self, pending: Resource<Pending>) -> Trappable<Result<host_io::Response, errors::Error>> {
        let answer = self.ask(Ask::Wait(pending.rep()))?;
        self.answered = Some(pending.rep());
        match answer {
            Answer::Response { response, filled } => {
                self.filled = filled;
                Ok(Ok(received(response)))
            }
            Answer::Error(error) => Ok(Err(told(error))),
            other => confused(&other),
        }
    }

    fn drop(&mut self, pending: Resource<Pending>) -> Trappable<()> {
        // Usually it was waited for, and the host need not be asked.
        if self.answered.take_if(|answered| *answered == pending.rep()).is_some() {
            return Ok(());
        }
        self.ask(Ask::GiveUp(pending.rep())).map(drop)
    }
}

impl log::Host for Guest {
    fn write(&mut self, level: log::Level, message: String) -> Trappable<()> {
        let level = match level {
            log::Level::Debug => words::Level::Debug,
            log::Level::Info => words::Level::Info,
            log::Level::Warn => words::Level::Warn,
            log::Level::Error => words::Level::Error,
        };
        self.ask(Ask::Log(level, message)).map(drop)
    }
}

impl task::Host for Guest {
    fn cancelled(&mut self) -> Trappable<bool> {
        Ok(self.is_cancelled())
    }

    fn monotonic_ms(&mut self) -> Trappable<u64> {
        Ok(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn now(&mut self) -> Trappable<i64> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }
}

fn received(response: words::Response) -> host_io::Response {
    let header = |(name, value)| host_io::ReceivedHeader { name, value };
    host_io::Response {
        status: response.status,
        headers: response.headers.into_iter().map(header).collect(),
        body: response.body,
    }
}

fn planned(request: host_io::Request) -> words::Request {
    let headers = request.headers.into_iter().map(|header| {
        let value = match header.value {
            host_io::HeaderValue::Text(text) => words::HeaderValue::Text(text),
            host_io::HeaderValue::Secret((before, secret)) => words::HeaderValue::Secret(before, secret.rep()),
            host_io::HeaderValue::Basic((user, secret)) => words::HeaderValue::Basic(user, secret.rep()),
        };
        (header.name, value)
    });
    words::Request {
        method: request.method,
        url: request.url,
        headers: headers.collect(),
        body: match request.body {
            host_io::Body::None => words::Body::None,
            host_io::Body::Inline(bytes) => words::Body::Inline(bytes),
            host_io::Body::Buffer(slice) => words::Body::Buffer { offset: slice.offset, len: slice.len },
        },
        receive: match request.receive {
            host_io::Receive::Discard => words::Receive::Discard,
            host_io::Receive::Inline(most) => words::Receive::Inline(most),
            host_io::Receive::Sink(_) => words::Receive::Sink,
        },
        timeout_ms: request.timeout_ms,
    }
}

/// Each class on both sides, written once.
macro_rules! classes {
    ($($class:ident),* $(,)?) => {
        fn told_class(class: words::Class) -> errors::Class {
            match class { $(words::Class::$class => errors::Class::$class),* }
        }

        fn class_of(class: errors::Class) -> words::Class {
            match class { $(errors::Class::$class => words::Class::$class),* }
        }
    };
}

classes!(Retryable, Throttled, Auth, Permission, NotFound, Conflict, Quota, Invalid, Corrupt, Permanent, Cancelled,);

/// An error of the host's, as the component sees it.
fn told(error: MoverError) -> errors::Error {
    errors::Error {
        class: told_class(error.class),
        code: error.code,
        retry_after_ms: error.retry_after_ms,
        message: error.message,
        details: error.details.into_iter().map(|(key, value)| errors::Detail { key, value }).collect(),
    }
}

/// An error of the component's.
pub(super) fn error_of(error: errors::Error) -> MoverError {
    MoverError {
        class: class_of(error.class),
        code: error.code,
        retry_after_ms: error.retry_after_ms,
        message: error.message,
        details: error.details.into_iter().map(|detail| (detail.key, detail.value)).collect(),
    }
}

pub(super) fn capabilities_of(can: objects::Capabilities) -> words::Capabilities {
    words::Capabilities {
        max_put: can.max_put,
        multipart: can.multipart,
        min_part: can.min_part,
        max_parts: can.max_parts,
    }
}

pub(super) fn stored_of(stored: objects::Stored) -> words::Stored {
    match stored {
        objects::Stored::Created => words::Stored::Created,
        objects::Stored::Exists => words::Stored::Exists,
    }
}

pub(super) fn object_of(object: objects::Object) -> words::Object {
    words::Object { key: object.key, size: object.size, modified: object.modified, etag: object.etag }
}

pub(super) fn page_of(page: objects::Page) -> words::Page {
    words::Page { objects: page.objects.into_iter().map(object_of).collect(), next: page.next }
}

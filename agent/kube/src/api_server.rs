//! The way to the API server.

use kube::Client;
use kube::core::Status;
use remora_core::{Error, ErrorKind, Result};

/// A client of the API server: as the pod's `ServiceAccount`, or with what `KUBECONFIG` names. `advice` is for whoever has
/// neither, an [`ErrorKind::Unavailable`].
pub async fn client(advice: &str) -> Result<Client> {
    // The crypto provider of this process; nobody was first.
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::try_default().await.map_err(|error| {
        Error::new(ErrorKind::Unavailable, "there is no API server to speak with").because(error).advise(advice)
    })
}

/// Whether an answer is a no: forbidden, invalid, not there. A token that has expired is renewed, though perhaps only once the API
/// server is there again; and it may have been slow, or asked too much.
pub(crate) fn is_refusal(answer: &Status) -> bool {
    (400..500).contains(&answer.code) && !matches!(answer.code, 401 | 408 | 429)
}

/// Whether the API server does not know what was asked for, an object or a whole kind: of a kind it says so without a
/// reason that `Status::is_not_found` knows.
pub(crate) fn is_unknown(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

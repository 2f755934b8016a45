//! Names become addresses here and nowhere else: what was looked at is what is connected to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::addresses::{Forbidden, Grants};

/// What knows the addresses of names.
#[async_trait]
pub trait Names: Send + Sync {
    /// The addresses of a name now.
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// As this machine resolves them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNames;

#[async_trait]
impl Names for SystemNames {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|found| found.ip()).collect())
    }
}

/// What the client takes the addresses of a connection from.
pub(crate) struct CheckedNames {
    pub(crate) names: Arc<dyn Names>,
    pub(crate) grants: Arc<Grants>,
}

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let (names, grants) = (Arc::clone(&self.names), Arc::clone(&self.grants));
        Box::pin(async move {
            let found = names.addresses(name.as_str()).await?;
            // One that is forbidden among others is no accident.
            if let Some(address) = found.iter().find(|address| !grants.permits(**address)) {
                return Err(Forbidden { host: name.as_str().into(), address: *address }.into());
            }
            Ok(Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

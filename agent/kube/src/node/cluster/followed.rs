//! One object, followed as it changes.

use std::fmt::Debug;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watch_object};
use serde::de::DeserializeOwned;

use crate::node::watch::is_too_old;

/// The object of a name, if there is one.
pub(super) struct Followed<K> {
    api: Api<K>,
    name: String,
    watch: BoxStream<'static, watcher::Result<Option<K>>>,
}

impl<K> Followed<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Follows it from now on.
    pub(super) fn new(api: Api<K>, name: &str) -> Self {
        Self { watch: Self::begin(&api, name), api, name: name.into() }
    }

    fn begin(api: &Api<K>, name: &str) -> BoxStream<'static, watcher::Result<Option<K>>> {
        watch_object(api.clone(), name).default_backoff().boxed()
    }

    /// Waits until it is known what it is, and then for each change; none if it is not there. May be dropped and called
    /// again.
    pub(super) async fn changed(&mut self) -> Option<K> {
        loop {
            match self.watch.next().await {
                Some(Ok(object)) => return object,
                Some(Err(error)) => {
                    tracing::warn!(%error, name = self.name, "the {} is not followed; tried again", K::kind(&()));
                    if is_too_old(&error) {
                        self.watch = Self::begin(&self.api, &self.name);
                    }
                }
                // No watch ends.
                None => std::future::pending::<()>().await,
            }
        }
    }
}

//! The remote: an object store in memory that outlives every crash, loses what it is told to lose,
//! and keeps a ledger of its own of what it took.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use orlop::tiered::Tombstone;
use orlop::wait;

/// What befalls one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is lost, and nobody answers.
    LostRequest,
    /// It is stored, and nobody answers.
    LostReply,
    /// Nobody answers, and it arrives when everything is over.
    AppliedAtTheEnd,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<(u32, Fault)>,
    writes: u32,
    lingering: Vec<(Path, PutPayload, PutOptions)>,
    /// What was taken, by name.
    ledger: BTreeMap<String, Vec<u8>>,
}

/// See the module. Clones are the same remote.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remote {
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

impl Remote {
    /// A remote whose `nth` write meets a fault.
    pub(crate) fn with_fault(fault: Option<(u32, Fault)>) -> Self {
        let remote = Self::default();
        remote.state.lock().unwrap().fault = fault;
        remote
    }

    /// Everything that the ledger has, once what lingers has arrived: content by name, without
    /// tombstones and without the revisions of locators.
    pub(crate) fn things(&self) -> BTreeMap<String, Vec<u8>> {
        let lingering = std::mem::take(&mut self.state.lock().unwrap().lingering);
        for (path, payload, options) in lingering {
            // Nobody hears what comes of it.
            let _ = wait(self.store(&path, payload, options));
        }
        let mut things = self.state.lock().unwrap().ledger.clone();
        things.retain(|name, content| {
            !name.contains("/locator/") && Tombstone::read(content).is_none()
        });
        things
    }

    async fn store(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let content: Vec<u8> = payload.iter().flat_map(|part| part.to_vec()).collect();
        let stored = self.inner.put_opts(path, payload, options).await?;
        let mut state = self.state.lock().unwrap();
        state.ledger.insert(path.to_string(), content);
        Ok(stored)
    }
}

fn no_answer() -> Error {
    Error::Generic {
        store: "remote",
        source: "no answer".into(),
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remote")
    }
}

#[async_trait]
impl ObjectStore for Remote {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let fault = {
            let mut state = self.state.lock().unwrap();
            let nth = state.writes;
            state.writes += 1;
            state.fault.filter(|(at, _)| *at == nth)
        };
        match fault {
            None => self.store(path, payload, options).await,
            Some((_, Fault::LostRequest)) => Err(no_answer()),
            Some((_, Fault::LostReply)) => {
                self.store(path, payload, options).await?;
                Err(no_answer())
            }
            Some((_, Fault::AppliedAtTheEnd)) => {
                let request = (path.clone(), payload, options);
                self.state.lock().unwrap().lingering.push(request);
                Err(no_answer())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        panic!("{path} is put in parts");
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        _paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        panic!("something is deleted");
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _options: CopyOptions) -> Result<()> {
        panic!("{from} is copied to {to}");
    }
}

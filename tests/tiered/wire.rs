//! An object store in memory behind a wire whose every call can be told to go wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use orlop::tiered::Tombstone;
use orlop::wait;
use tokio::sync::Notify;

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request is lost.
    Lose,
    /// The request is lost, and so are the two calls after it.
    Outage,
    /// It is served, and the reply is lost.
    LoseReply,
    /// A write lingers on the wire until the end of the test; of a read, the request is lost.
    Linger,
    /// The store says no.
    Refuse,
    /// The store says no to a write that is no tombstone.
    RefuseUploads,
    /// A write stores other bytes and says that all is well.
    Spoil,
    /// A write stores other bytes, and the reply is lost.
    SpoilUnheard,
    /// The process ends before the request is sent.
    DieBefore,
    /// The process ends once the request is served.
    DieAfter,
    /// The call waits until it is let go.
    Pause,
    /// The same, and then the request is lost.
    PauseAndLose,
}

/// Every fault after which the same life goes on, or the next one does.
pub(crate) const FAULTS: [Fault; 9] = [
    Fault::Lose,
    Fault::Outage,
    Fault::LoseReply,
    Fault::Linger,
    Fault::Refuse,
    Fault::Spoil,
    Fault::SpoilUnheard,
    Fault::DieBefore,
    Fault::DieAfter,
];

#[derive(Debug, Default)]
struct State {
    plan: Vec<(usize, Fault)>,
    calls: usize,
    life: u32,
    lingering: Vec<(Path, PutPayload, PutOptions)>,
    spoilt: Vec<Path>,
}

/// The wire as one process sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wire {
    life: u32,
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
    died: Arc<Notify>,
    paused: Arc<Notify>,
    go: Arc<Notify>,
}

impl Wire {
    /// From now on calls are counted from 0, and these go wrong.
    pub(crate) fn arm(&self, plan: Vec<(usize, Fault)>) {
        let mut state = self.state.lock().unwrap();
        state.plan = plan;
        state.calls = 0;
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }

    /// Returns once a call has ended the process.
    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }

    /// Returns once a call waits.
    pub(crate) async fn paused(&self) {
        self.paused.notified().await;
    }

    /// Lets the call go that waits.
    pub(crate) fn go(&self) {
        self.go.notify_one();
    }

    /// The wire of the next process. What the one before still has to say is not heard.
    pub(crate) fn next_life(&self) -> Self {
        let mut state = self.state.lock().unwrap();
        state.life += 1;
        let life = state.life;
        drop(state);
        Self {
            life,
            ..self.clone()
        }
    }

    /// Delivers what lingers. Whether anything of it was stored.
    pub(crate) fn deliver(&self) -> bool {
        let lingering = std::mem::take(&mut self.state.lock().unwrap().lingering);
        let mut stored = false;
        for (path, payload, options) in lingering {
            stored |= wait(self.inner.put_opts(&path, payload, options)).is_ok();
        }
        stored
    }

    /// Has an object hold something else.
    pub(crate) fn overwrite(&self, path: &Path, content: &[u8]) {
        wait(self.inner.put(path, content.to_vec().into())).unwrap();
    }

    /// Every object.
    fn objects(&self) -> BTreeMap<Path, Vec<u8>> {
        wait(async {
            let metas: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
            let mut objects = BTreeMap::new();
            for meta in metas {
                let got = self.inner.get(&meta.location).await.unwrap();
                objects.insert(meta.location, got.bytes().await.unwrap().to_vec());
            }
            objects
        })
    }

    /// Every object that holds something: no tombstone, and no revision of a locator.
    pub(crate) fn things(&self) -> BTreeMap<Path, Vec<u8>> {
        let mut objects = self.objects();
        objects.retain(|path, content| !is_locator(path) && Tombstone::read(content).is_none());
        objects
    }

    /// What an operator does about revisions of a locator that are not whole.
    pub(crate) fn repair(&self) {
        let mut spoilt = std::mem::take(&mut self.state.lock().unwrap().spoilt);
        spoilt.retain(is_locator);
        for path in spoilt {
            wait(self.inner.delete(&path)).unwrap();
        }
    }

    /// Says what becomes of a call; does not return where nobody is left to be told.
    async fn call(&self) -> Option<Fault> {
        let fault = {
            let mut state = self.state.lock().unwrap();
            if state.life == self.life {
                let at = state.calls;
                state.calls += 1;
                let fault = state.plan.iter().find_map(|(first, fault)| match fault {
                    Fault::Outage => (*first..*first + 3).contains(&at).then_some(Fault::Lose),
                    fault => (*first == at).then_some(*fault),
                });
                Some(fault)
            } else {
                None
            }
        };
        let Some(fault) = fault else {
            return std::future::pending().await;
        };
        match fault {
            Some(Fault::DieBefore) => self.die().await,
            Some(fault @ (Fault::Pause | Fault::PauseAndLose)) => {
                self.paused.notify_one();
                self.go.notified().await;
                (fault == Fault::PauseAndLose).then_some(Fault::Lose)
            }
            fault => fault,
        }
    }

    async fn die<T>(&self) -> T {
        self.died.notify_one();
        std::future::pending().await
    }
}

fn is_locator(path: &Path) -> bool {
    path.as_ref().contains("/locator/")
}

fn no_answer() -> Error {
    Error::Generic {
        store: "wire",
        source: "no answer".into(),
    }
}

fn refused(path: &Path) -> Error {
    Error::PermissionDenied {
        path: path.to_string(),
        source: "read only".into(),
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

#[async_trait]
impl ObjectStore for Wire {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let fault = self.call().await;
        if let Some(Fault::Lose | Fault::Outage) = fault {
            return Err(no_answer());
        }
        let content: Vec<u8> = payload.iter().flat_map(|part| part.to_vec()).collect();
        let is_tombstone = Tombstone::read(&content).is_some();
        if fault == Some(Fault::Refuse) || fault == Some(Fault::RefuseUploads) && !is_tombstone {
            return Err(refused(path));
        }
        if fault == Some(Fault::Linger) {
            let request = (path.clone(), payload, options);
            self.state.lock().unwrap().lingering.push(request);
            return Err(no_answer());
        }
        let spoils = matches!(fault, Some(Fault::Spoil | Fault::SpoilUnheard));
        let payload = if spoils && !is_tombstone {
            // Half of it arrives.
            self.state.lock().unwrap().spoilt.push(path.clone());
            content[..content.len() / 2].to_vec().into()
        } else {
            payload
        };
        let stored = self.inner.put_opts(path, payload, options).await;
        match fault {
            Some(Fault::LoseReply | Fault::SpoilUnheard) => Err(no_answer()),
            Some(Fault::DieAfter) => self.die().await,
            _ => stored,
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
        match self.call().await {
            Some(Fault::Lose | Fault::Outage | Fault::Linger | Fault::LoseReply) => {
                Err(no_answer())
            }
            Some(Fault::Refuse) => Err(refused(path)),
            Some(Fault::DieAfter) => self.die().await,
            _ => self.inner.get_opts(path, options).await,
        }
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

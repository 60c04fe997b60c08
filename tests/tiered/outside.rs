//! An object store in memory that fails as it is told, and remembers what lingers on the wire.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};
use orlop::Incarnation;
use orlop::tiered::Tombstone;
use tokio::sync::Notify;

/// A fence of an engine that was opened after every one of these tests.
const GIVEN_UP: &str = "orlop tombstone 8b1f5d0c97e34a62 v1 fenced 1000 1\n";

/// What becomes of the next upload of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is stored, and the reply is lost.
    LoseReply,
    /// It is lost.
    LoseRequest,
    /// It lingers on the wire, and the caller hears nothing good.
    Linger,
    /// It is stored, and so it is a second time when the client repeats it.
    Repeat,
    /// It is stored, while a second delivery lingers on the wire.
    Duplicate,
    /// Other bytes are stored, while a second delivery with the right ones lingers on the wire.
    Corrupt,
    /// Other bytes are stored, and the reply is lost.
    Spoil,
    /// A later engine has given it up already.
    GiveUp,
    /// The store says no.
    Refuse,
    /// It is on the wire until the gate opens.
    Wait,
}

#[derive(Debug, Default)]
struct State {
    faults: VecDeque<Fault>,
    /// Tombstones get no answer and are not stored.
    tombstones_lost: bool,
    /// Of how many tombstones the reply is lost.
    tombstone_replies_lost: u32,
    lingering: Vec<(Path, PutPayload, PutOptions)>,
    uploads: BTreeMap<String, u32>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outside {
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
    gate: Arc<Notify>,
}

impl Outside {
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    pub(crate) fn lose_tombstones(&self, lost: bool) {
        self.state.lock().unwrap().tombstones_lost = lost;
    }

    pub(crate) fn lose_tombstone_replies(&self, count: u32) {
        self.state.lock().unwrap().tombstone_replies_lost = count;
    }

    pub(crate) fn open_gate(&self) {
        self.gate.notify_one();
    }

    /// How many requests linger on the wire.
    pub(crate) fn lingering(&self) -> usize {
        self.state.lock().unwrap().lingering.len()
    }

    /// Delivers what lingers; what the store said to each.
    pub(crate) fn deliver(&self) -> Vec<Result<PutResult>> {
        let lingering = std::mem::take(&mut self.state.lock().unwrap().lingering);
        let deliver = lingering.into_iter();
        deliver
            .map(|(path, payload, options)| {
                orlop::wait(self.inner.put_opts(&path, payload, options))
            })
            .collect()
    }

    /// How often the content of a segment was stored, over all objects.
    pub(crate) fn uploads(&self) -> u32 {
        self.state.lock().unwrap().uploads.values().sum()
    }

    fn objects(&self) -> Vec<(Path, Vec<u8>)> {
        orlop::wait(async {
            let metas: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
            let mut objects = Vec::new();
            for meta in metas {
                let content = self.content(&meta.location).await;
                objects.push((meta.location, content));
            }
            objects
        })
    }

    /// What an object holds.
    pub(crate) async fn content(&self, path: &Path) -> Vec<u8> {
        let got = self.inner.get(path).await.unwrap();
        got.bytes().await.unwrap().to_vec()
    }

    /// Every object that is no tombstone.
    pub(crate) fn segments(&self) -> Vec<(Path, Vec<u8>)> {
        let objects = self.objects().into_iter();
        objects
            .filter(|(_, content)| Tombstone::read(content).is_none())
            .collect()
    }

    /// Every tombstone.
    pub(crate) fn tombstones(&self) -> Vec<Tombstone> {
        let objects = self.objects();
        objects
            .iter()
            .filter_map(|(_, content)| Tombstone::read(content))
            .collect()
    }

    /// By which engine each tombstone was put there, where all of them are fences.
    pub(crate) fn fences(&self) -> Vec<Incarnation> {
        let tombstones = self.tombstones().into_iter();
        tombstones
            .map(|tombstone| match tombstone {
                Tombstone::Fenced { by } => by.incarnation,
                Tombstone::Removed => panic!("something was taken away"),
            })
            .collect()
    }

    async fn store(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let stored = self.inner.put_opts(path, payload, options).await?;
        let mut state = self.state.lock().unwrap();
        *state.uploads.entry(path.to_string()).or_default() += 1;
        Ok(stored)
    }
}

fn no_answer() -> Error {
    Error::Generic {
        store: "outside",
        source: "no answer".into(),
    }
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outside")
    }
}

#[async_trait]
impl ObjectStore for Outside {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let content: Vec<u8> = payload.iter().flat_map(|part| part.to_vec()).collect();
        if Tombstone::read(&content).is_some() {
            if self.state.lock().unwrap().tombstones_lost {
                return Err(no_answer());
            }
            let put = self.inner.put_opts(path, payload, options).await;
            let lost = &mut self.state.lock().unwrap().tombstone_replies_lost;
            if put.is_ok() && *lost > 0 {
                *lost -= 1;
                return Err(no_answer());
            }
            return put;
        }
        assert_eq!(options.mode, PutMode::Create, "an upload is conditional");
        let fault = self.state.lock().unwrap().faults.pop_front();
        let request = (path.clone(), payload.clone(), options.clone());
        match fault {
            None => self.store(path, payload, options).await,
            Some(Fault::LoseReply) => {
                self.store(path, payload, options).await?;
                Err(no_answer())
            }
            Some(Fault::LoseRequest) => Err(no_answer()),
            Some(Fault::Linger) => {
                self.state.lock().unwrap().lingering.push(request);
                Err(no_answer())
            }
            Some(Fault::Repeat) => {
                self.store(path, payload, options.clone()).await?;
                let (path, payload, _) = request;
                self.store(&path, payload, options).await
            }
            Some(Fault::Duplicate) => {
                self.state.lock().unwrap().lingering.push(request);
                self.store(path, payload, options).await
            }
            Some(Fault::Corrupt) => {
                self.state.lock().unwrap().lingering.push(request);
                let mut other = content;
                other.reverse();
                self.store(path, other.into(), options).await
            }
            Some(Fault::Spoil) => {
                let mut other = content;
                other.reverse();
                self.store(path, other.into(), options).await?;
                Err(no_answer())
            }
            Some(Fault::GiveUp) => {
                let fence = GIVEN_UP.as_bytes().to_vec();
                self.inner.put(path, fence.into()).await?;
                self.store(path, payload, options).await
            }
            Some(Fault::Refuse) => Err(Error::PermissionDenied {
                path: path.to_string(),
                source: "read only".into(),
            }),
            Some(Fault::Wait) => {
                self.state.lock().unwrap().lingering.push(request);
                self.gate.notified().await;
                self.state.lock().unwrap().lingering.clear();
                self.store(path, payload, options).await
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        // A version leaves a tombstone; nothing is ever deleted.
        paths
            .map(|path| panic!("{:?} is deleted", path.map(|path| path.to_string())))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

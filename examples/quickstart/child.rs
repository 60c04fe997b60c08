//! The child: opens the engine and has the work done, in a life that may end at any instant.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use orlop::tiered::{Evict, Eviction, LocalSegments, Tiered, TieredOptions};
use orlop::{Blake3, Buffer, BufferRef, Crc32c, Engine, Key, Reply, Source, SubmitError, Tenant};

use crate::acks::{Ack, AckFile};
use crate::local::{self, LocalBuffers, LocalFolder};
use crate::plan::{Plan, Planned, TENANTS};
use crate::remote::Remote;
use crate::{Places, Problem};

/// How many segments are worked on at once.
const AT_ONCE: usize = 48;

/// The folder that the parent has made.
pub(crate) const FOLDER: &str = "ORLOP_QUICKSTART_FOLDER";
/// Which child this is, from 1.
pub(crate) const LIFE: &str = "ORLOP_QUICKSTART_LIFE";
/// After how many uploads the remote falls silent.
pub(crate) const SILENT_AFTER: &str = "ORLOP_QUICKSTART_SILENT_AFTER";

/// Where and which child this process is, if it is one.
pub(crate) fn role() -> Option<(PathBuf, u32)> {
    let folder = std::env::var_os(FOLDER)?;
    let life = std::env::var(LIFE).ok()?.parse().ok()?;
    Some((PathBuf::from(folder), life))
}

/// Does everything there is to do, or what is left of it.
pub(crate) fn work(folder: &std::path::Path, life: u32) -> Result<(), Problem> {
    let started = Instant::now();
    let places = Places::new(folder);
    let segments = Plan::read(&places.plan)?;
    let silent_after = match std::env::var(SILENT_AFTER) {
        Ok(count) => Some(count.parse()?),
        Err(_) => None,
    };
    let acks = AckFile::create(&places.acks(life))?;
    let remote = Remote::open(&places, silent_after)?;
    let copies: Arc<dyn LocalSegments> = Arc::new(LocalFolder(places.local.clone()));
    let tiered = Tiered::new(Arc::new(remote), copies, TieredOptions::default());
    let builder =
        Engine::builder(&places.store).buffer_source(LocalBuffers::new(&places.local, &segments));
    let engine = tiered.bind(builder).open_blocking()?;
    let recovery = engine.recovery();
    acks.append(&Ack::Opened {
        micros: u64::try_from(started.elapsed().as_micros())?,
        sagas: recovery.sagas,
        effects: recovery.effects,
        records: recovery.records,
    })?;
    orlop::wait(async {
        let mut tenants = Vec::new();
        for label in TENANTS {
            tenants.push(engine.tenant(label).await?);
        }
        let worker = Worker {
            tiered,
            tenants,
            places,
            acks,
        };
        let worker = &worker;
        stream::iter(segments.iter().enumerate())
            .map(|(index, segment)| worker.segment(index, segment))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        engine.close().await?;
        worker.acks.append(&Ack::Closed)?;
        Ok(())
    })
}

struct Worker {
    tiered: Tiered,
    tenants: Vec<Tenant>,
    places: Places,
    acks: AckFile,
}

impl Worker {
    /// Digest, checksum, eviction of one segment. In a second life all of it is asked for again:
    /// what is done is replayed, what is under way is joined.
    async fn segment(&self, index: usize, segment: &Planned) -> Result<(), Problem> {
        let tenant = self
            .tenants
            .get(segment.tenant)
            .ok_or("the plan names a tenant that there is not")?;
        let (source, _held) = self.source(tenant, segment)?;
        let digest = || tenant.submit(Blake3, source.clone()).into_future();
        let checksum = tenant.submit(Crc32c, source.clone());
        if index.is_multiple_of(3) {
            // Two callers with the same question: one effect.
            let (first, second) = futures_util::future::join(digest(), digest()).await;
            self.told(index, "blake3", first, |digest| digest.to_string())?;
            self.told(index, "blake3", second, |digest| digest.to_string())?;
        } else {
            self.told(index, "blake3", digest().await, |digest| digest.to_string())?;
        }
        self.told(index, "crc32c", checksum.await, |sum| format!("{sum:08x}"))?;
        if index.is_multiple_of(5) {
            // Somebody asks for what is known already.
            self.told(index, "blake3", digest().await, |digest| digest.to_string())?;
        }
        self.evict(index, segment, tenant, source).await
    }

    /// What names the content on the device. The buffer is kept there while the handle lives; once
    /// the segment is evicted, its name alone finds the outcomes.
    fn source(
        &self,
        tenant: &Tenant,
        segment: &Planned,
    ) -> Result<(Source, Option<Buffer>), Problem> {
        if segment.length == 0 {
            return Ok((Source::from(&b""[..]), None));
        }
        let held = match std::fs::read(local::file(&self.places.local, &segment.name)) {
            Ok(content) => Some(tenant.buffer(&content)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.into()),
        };
        let reference = BufferRef {
            digest: segment.digest,
            offset: 0,
            length: segment.length,
        };
        let reference = held.as_ref().map_or(reference, Buffer::reference);
        Ok((reference.into(), held))
    }

    fn told<T>(
        &self,
        segment: usize,
        what: &str,
        reply: Result<Reply<T>, SubmitError>,
        output: impl FnOnce(T) -> String,
    ) -> Result<(), Problem> {
        let reply = reply.map_err(|error| format!("{what} of segment {segment}: {error}"))?;
        self.acks.append(&Ack::Effect {
            what: what.to_owned(),
            segment,
            origin: reply.origin,
            output: output(reply.output),
        })?;
        Ok(())
    }

    async fn evict(
        &self,
        index: usize,
        segment: &Planned,
        tenant: &Tenant,
        content: Source,
    ) -> Result<(), Problem> {
        let key = Key::named(&format!("evict segment {index}"));
        let eviction = Eviction {
            name: segment.name.clone(),
            epoch: segment.epoch,
            content,
        };
        let ticket = tenant.start::<Evict>(key, eviction).await?;
        let ack = match ticket.await {
            Ok(reply) => Ack::Completed {
                segment: index,
                origin: reply.origin,
                object: self
                    .tiered
                    .path(tenant.id(), &reply.output.object)
                    .to_string(),
            },
            Err(SubmitError::Failed(failure)) => Ack::Compensated {
                segment: index,
                reason: failure.reason().to_owned(),
            },
            Err(error) => return Err(format!("eviction of segment {index}: {error}").into()),
        };
        self.acks.append(&ack)?;
        Ok(())
    }
}

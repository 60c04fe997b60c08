//! Keys: how a submission is recognised, here and outside.
//!
//! Byte layouts. Every digest is BLAKE3 over a sequence of fields; `text` is its length in bytes
//! as `u32` little-endian and then its UTF-8, integers are little-endian, raw fields have a fixed
//! width, and the last field of variable length needs no length.
//!
//! | value | fields |
//! | --- | --- |
//! | [`Fingerprint`] | text `orlop.fingerprint.v1`, text name, u32 input schema, canonical input |
//! | [`Key`], derived | text `orlop.key.v1`, u64 tenant, 32 B fingerprint; the first 16 bytes |
//! | [`Key`] of a child | text `orlop.key.child.v1`, u64 tenant, u64 saga, text path; the first 16 bytes |
//! | [`RemoteKey`] of a plain effect | text `orlop.remote.effect.v1`, 16 B store id, u64 tenant, 16 B key, u32 epoch |
//! | [`RemoteKey`] of a step | text `orlop.remote.step.v1`, 16 B store id, u64 tenant, u64 saga, u32 epoch, text path |
//! | [`RemoteKey`] of an undo | text `orlop.remote.undo.v1`, then as for a step |
//!
//! A tenant's `u64` has the slot in its low and the generation in its high half. The input is
//! hashed once: a derived key covers name, schema and input through the fingerprint. Version,
//! attempt, lease and budget are in none of these, so a retry after an upgrade finds its outcome.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};

use serde::{Deserialize, Serialize};

use crate::canonical::Payload;
use crate::id::{Epoch, SagaId, StoreId, TenantId};
use crate::path::StepPath;

/// What a submission is recognised by, within a tenant and a store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key([u8; 16]);

impl Key {
    /// A key that the embedder chose: unique for what it names, the same on every retry.
    pub const fn new(raw: [u8; 16]) -> Self {
        Self(raw)
    }

    /// A key that nothing was ever submitted under: says "again, whatever was done before".
    pub fn fresh() -> Self {
        // Seeded by the operating system once per thread, with another key for every state.
        let half = || RandomState::new().build_hasher().finish().to_le_bytes();
        let mut hasher = Fields::new("orlop.key.fresh.v1");
        for _ in 0..4 {
            hasher.raw(&half());
        }
        hasher.key()
    }

    /// A key from any text that the embedder recognises the work by.
    pub fn named(name: &str) -> Self {
        let mut hasher = Fields::new("orlop.key.named.v1");
        hasher.raw(name.as_bytes());
        hasher.key()
    }

    /// The key of a `Pure` submission: equal submissions of one tenant have equal keys.
    pub fn derived(tenant: TenantId, fingerprint: &Fingerprint) -> Self {
        let mut hasher = Fields::new("orlop.key.v1");
        hasher.u64(tenant.to_u64());
        hasher.raw(fingerprint.as_bytes());
        hasher.key()
    }

    /// The key of the child that the call at `path` of a saga starts.
    pub fn of_child(tenant: TenantId, parent: SagaId, path: &StepPath) -> Self {
        let mut hasher = Fields::new("orlop.key.child.v1");
        hasher.u64(tenant.to_u64());
        hasher.u64(parent.get());
        hasher.text(path.as_str());
        hasher.key()
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// What was asked: the name of a computation, the schema of its input, and the input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of `input` to the computation `name` with this input `schema`.
    pub fn of(name: &str, schema: u32, input: &Payload) -> Self {
        let mut hasher = Fields::new("orlop.fingerprint.v1");
        hasher.text(name);
        hasher.u32(schema);
        hasher.raw(input.as_bytes());
        Self(hasher.digest())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What the outside world recognises an attempt by: the same on every retry and resumption, and
/// another one only after a completed undo or in a fork.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RemoteKey([u8; 32]);

impl RemoteKey {
    /// The remote key of a plain effect.
    pub fn of_effect(store: &StoreId, tenant: TenantId, key: &Key, epoch: Epoch) -> Self {
        let mut hasher = Fields::new("orlop.remote.effect.v1");
        hasher.raw(store.as_bytes());
        hasher.u64(tenant.to_u64());
        hasher.raw(key.as_bytes());
        hasher.u32(epoch.get());
        Self(hasher.digest())
    }

    /// The remote key of the step at `path`.
    pub fn of_step(
        store: &StoreId,
        tenant: TenantId,
        saga: SagaId,
        path: &StepPath,
        epoch: Epoch,
    ) -> Self {
        Self::in_saga("orlop.remote.step.v1", store, tenant, saga, path, epoch)
    }

    /// The remote key of the undo of the step at `path`.
    pub fn of_undo(
        store: &StoreId,
        tenant: TenantId,
        saga: SagaId,
        path: &StepPath,
        epoch: Epoch,
    ) -> Self {
        Self::in_saga("orlop.remote.undo.v1", store, tenant, saga, path, epoch)
    }

    fn in_saga(
        domain: &str,
        store: &StoreId,
        tenant: TenantId,
        saga: SagaId,
        path: &StepPath,
        epoch: Epoch,
    ) -> Self {
        let mut hasher = Fields::new(domain);
        hasher.raw(store.as_bytes());
        hasher.u64(tenant.to_u64());
        hasher.u64(saga.get());
        hasher.u32(epoch.get());
        hasher.text(path.as_str());
        Self(hasher.digest())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Fields on their way into a digest.
struct Fields(blake3::Hasher);

impl Fields {
    fn new(domain: &str) -> Self {
        let mut fields = Self(blake3::Hasher::new());
        fields.text(domain);
        fields
    }

    fn text(&mut self, text: &str) {
        // A text is at most a payload limit long, far below 4 GiB; a longer one would still be
        // unambiguous, since only its length would wrap and its bytes follow.
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.raw(text.as_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn digest(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }

    fn key(&self) -> Key {
        let mut raw = [0; 16];
        self.0.finalize_xof().fill(&mut raw);
        Key(raw)
    }
}

macro_rules! as_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                crate::digest::hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}

as_hex!(Key, Fingerprint, RemoteKey);

#[cfg(test)]
mod tests {
    use super::*;

    /// Rebuilds a digest from its documented layout with nothing but concatenation.
    fn digest(fields: &[&[u8]]) -> [u8; 32] {
        *blake3::hash(&fields.concat()).as_bytes()
    }

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = u32::try_from(text.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    fn tenant() -> TenantId {
        TenantId::new(3, 1)
    }

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("segment_put", 2, &Payload::new(&b"input"[..]))
    }

    #[test]
    fn digests_follow_the_documented_layout() {
        let print = fingerprint();
        assert_eq!(
            print.as_bytes(),
            &digest(&[
                &text("orlop.fingerprint.v1"),
                &text("segment_put"),
                &2_u32.to_le_bytes(),
                b"input"
            ])
        );
        let tenant_bytes = ((1_u64 << 32) | 3).to_le_bytes();
        assert_eq!(
            Key::derived(tenant(), &print).as_bytes()[..],
            digest(&[&text("orlop.key.v1"), &tenant_bytes, print.as_bytes()])[..16]
        );
        let store = StoreId::new([7; 16]);
        let path = StepPath::root("upload").unwrap();
        assert_eq!(
            RemoteKey::of_undo(&store, tenant(), SagaId::new(9), &path, Epoch::new(1)).as_bytes(),
            &digest(&[
                &text("orlop.remote.undo.v1"),
                &[7; 16],
                &tenant_bytes,
                &9_u64.to_le_bytes(),
                &1_u32.to_le_bytes(),
                &text("upload")
            ])
        );
    }

    /// Other implementations check themselves against these.
    #[test]
    fn test_vectors_hold() {
        let store = StoreId::new([7; 16]);
        let key = Key::derived(tenant(), &fingerprint());
        let path = StepPath::root("upload").unwrap();
        let vectors = [
            fingerprint().to_string(),
            key.to_string(),
            Key::named("nightly/2026-11-21").to_string(),
            RemoteKey::of_effect(&store, tenant(), &key, Epoch::new(0)).to_string(),
            RemoteKey::of_step(&store, tenant(), SagaId::new(9), &path, Epoch::new(0)).to_string(),
            RemoteKey::of_undo(&store, tenant(), SagaId::new(9), &path, Epoch::new(0)).to_string(),
        ];
        assert_eq!(
            vectors.join("\n"),
            include_str!("fixtures/key_vectors.txt").trim_end()
        );
    }

    #[test]
    fn fresh_keys_differ() {
        let keys: std::collections::BTreeSet<Key> = (0..10_000).map(|_| Key::fresh()).collect();
        assert_eq!(keys.len(), 10_000);
    }

    #[test]
    fn equal_requests_of_two_tenants_have_different_keys() {
        let print = fingerprint();
        assert_ne!(
            Key::derived(TenantId::new(3, 1), &print),
            Key::derived(TenantId::new(3, 2), &print)
        );
    }

    #[test]
    fn a_name_and_its_input_cannot_trade_bytes() {
        assert_ne!(
            Fingerprint::of("ab", 1, &Payload::new(&b"c"[..])),
            Fingerprint::of("a", 1, &Payload::new(&b"bc"[..]))
        );
    }
}

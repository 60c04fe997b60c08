//! Tenants as the journal knows them, and what every piece of their work carries.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::TenantId;
use crate::tenancy::{AllowList, Engagements, Terms};

/// Who pays: billed together per (tenant, organisation, engagement).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct AuditTag {
    /// The organisation behind the request.
    pub organisation: u64,
    /// The contract, project or job the work is charged to.
    pub engagement: u64,
}

/// How urgent work is among the work of its own tenant. Never a way past another tenant.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Class {
    /// A caller is waiting.
    Interactive,
    /// The default.
    #[default]
    Standard,
    /// Background work: compaction, eviction, rebuilds.
    Batch,
}

impl Class {
    /// All classes, most urgent first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Standard, Self::Batch];
}

/// A tenant's name, as the embedder knows it.
///
/// 1 to 128 bytes of UTF-8 without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantLabel(String);

/// Why a text is no tenant label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// The text is empty.
    #[error("a tenant label is empty")]
    Empty,
    /// The text is longer than [`TenantLabel::BYTES_MAX`].
    #[error("a tenant label of {bytes} bytes is longer than {bytes_max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The most that is accepted.
        bytes_max: usize,
    },
    /// The text has a control character, which would garble logs and tables.
    #[error("a tenant label has a control character")]
    Control,
}

impl TenantLabel {
    /// The longest label, in bytes.
    pub const BYTES_MAX: usize = 128;

    /// Checks a label.
    ///
    /// # Errors
    /// [`LabelError`]: which rule it breaks.
    pub fn new(label: impl Into<String>) -> Result<Self, LabelError> {
        let label = label.into();
        if label.is_empty() {
            return Err(LabelError::Empty);
        }
        if label.len() > Self::BYTES_MAX {
            return Err(LabelError::TooLong {
                bytes: label.len(),
                bytes_max: Self::BYTES_MAX,
            });
        }
        if label.chars().any(char::is_control) {
            return Err(LabelError::Control);
        }
        Ok(Self(label))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the journal says of a tenant.
///
/// New variants are added at the end: the position of a variant is part of the format. All but the
/// first came with format 3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TenantEvent {
    /// The tenant was registered under a label and may submit.
    Registered {
        /// Its id, for ever.
        tenant: TenantId,
        /// Its name.
        label: TenantLabel,
    },
    /// It is bounded by these terms from now on.
    QuotasChanged {
        /// Which one.
        tenant: TenantId,
        /// All its terms.
        terms: Terms,
    },
    /// It may run these computations from now on.
    AllowListChanged {
        /// Which one.
        tenant: TenantId,
        /// Which computations.
        allowed: AllowList,
    },
    /// It may not submit until it is resumed.
    Suspended {
        /// Which one.
        tenant: TenantId,
    },
    /// It may submit again.
    Resumed {
        /// Which one.
        tenant: TenantId,
    },
    /// It may not submit; what was accepted is being finished.
    Draining {
        /// Which one.
        tenant: TenantId,
    },
    /// What was accepted has ended or is held.
    Drained {
        /// Which one.
        tenant: TenantId,
    },
    /// It may never submit again.
    Revoked {
        /// Which one.
        tenant: TenantId,
    },
    /// Its life has ended; the slot's next life is a later generation.
    Unregistered {
        /// Which one.
        tenant: TenantId,
    },
    /// It may work for these engagements from now on.
    EngagementsChanged {
        /// Which one.
        tenant: TenantId,
        /// Which engagements.
        engagements: Engagements,
    },
}

impl TenantEvent {
    /// Whom it is about.
    pub const fn tenant(&self) -> TenantId {
        match self {
            Self::Registered { tenant, .. }
            | Self::QuotasChanged { tenant, .. }
            | Self::AllowListChanged { tenant, .. }
            | Self::Suspended { tenant }
            | Self::Resumed { tenant }
            | Self::Draining { tenant }
            | Self::Drained { tenant }
            | Self::Revoked { tenant }
            | Self::Unregistered { tenant }
            | Self::EngagementsChanged { tenant, .. } => *tenant,
        }
    }

    /// Whether only format 3 and later can say it.
    pub(crate) const fn is_of_format_3(&self) -> bool {
        match self {
            Self::Registered { .. } => false,
            Self::QuotasChanged { .. }
            | Self::AllowListChanged { .. }
            | Self::Suspended { .. }
            | Self::Resumed { .. }
            | Self::Draining { .. }
            | Self::Drained { .. }
            | Self::Revoked { .. }
            | Self::Unregistered { .. }
            | Self::EngagementsChanged { .. } => true,
        }
    }
}

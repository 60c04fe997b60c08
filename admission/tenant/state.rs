//! States of a tenant, and what is told to it.

use std::fmt;

/// Whether a tenant may submit ordinary work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TenantState {
    /// It may.
    Active,
    /// Not until it is resumed.
    Suspended,
    /// Not until it is resumed; what was accepted is being finished.
    Draining,
    /// Never again. What is in flight and the reserved lane go on.
    Revoked,
    /// This life has ended: nothing new, in no lane.
    Unregistered,
}

impl fmt::Display for TenantState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Draining => "draining",
            Self::Revoked => "revoked",
            Self::Unregistered => "unregistered",
        })
    }
}

/// What a tenant is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantCommand {
    /// [`Tenants::suspend`](crate::Tenants::suspend).
    Suspend,
    /// [`Tenants::resume`](crate::Tenants::resume).
    Resume,
    /// [`Tenants::drain`](crate::Tenants::drain).
    Drain,
    /// [`Tenants::revoke`](crate::Tenants::revoke).
    Revoke,
    /// [`Tenants::unregister`](crate::Tenants::unregister).
    Unregister,
}

impl TenantState {
    /// The state after `command`, unless it is refused in this state.
    pub(crate) const fn after(self, command: TenantCommand) -> Option<Self> {
        match (self, command) {
            (Self::Active | Self::Suspended, TenantCommand::Suspend) => Some(Self::Suspended),
            (Self::Active | Self::Suspended | Self::Draining, TenantCommand::Resume) => {
                Some(Self::Active)
            }
            (Self::Active | Self::Suspended | Self::Draining, TenantCommand::Drain) => {
                Some(Self::Draining)
            }
            // A drain of what is revoked waits for its end, and leaves it revoked.
            (Self::Revoked, TenantCommand::Drain | TenantCommand::Revoke)
            | (Self::Active | Self::Suspended | Self::Draining, TenantCommand::Revoke) => {
                Some(Self::Revoked)
            }
            (
                Self::Active | Self::Suspended | Self::Draining | Self::Revoked,
                TenantCommand::Unregister,
            )
            | (Self::Unregistered, TenantCommand::Unregister | TenantCommand::Drain) => {
                Some(Self::Unregistered)
            }
            (Self::Draining | Self::Revoked, TenantCommand::Suspend)
            | (Self::Revoked, TenantCommand::Resume)
            | (
                Self::Unregistered,
                TenantCommand::Suspend | TenantCommand::Resume | TenantCommand::Revoke,
            ) => None,
        }
    }

    /// Whether the gate is shut for good or until resumed, so that a drain can end.
    pub(super) const fn is_closed(self) -> bool {
        match self {
            Self::Active | Self::Suspended => false,
            Self::Draining | Self::Revoked | Self::Unregistered => true,
        }
    }
}

//! A mover for a storage appliance that keeps points in its own form, such as clones of volumes.
//!
//! The appliance is made up, and speaks HTTP: a point is begun, filled and committed below `/points/ID`, a disk of it is
//! `/points/ID/disks/N`. Settings: `endpoint` (`https://host:port`). The token that it wants to see is the secret `token`.

mod appliance;

remora_sdk::volumes!(appliance::Appliance);

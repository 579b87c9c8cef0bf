//! Floor 2: the name server of a node, for its instances. It listens on the node's own addresses only, so that it is no
//! open resolver, and answers from what the node is told: nothing is asked of anyone for names of the cluster.

mod lookups;
mod networks;
mod opening;
mod server;
mod table;
mod upstream;

pub use lookups::Lookups;
pub use opening::Resolved;
pub use server::{DnsConfig, DnsError, DnsServer};
pub use table::{Answer, DnsTable, resolv_conf};

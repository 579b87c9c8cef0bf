//! Floor 2: the name server of a node, for its instances. It listens on the node's own addresses only, so that it is no
//! open resolver, and answers from what the node is told: nothing is asked of anyone for names of the cluster.

mod answer;
mod lookups;
mod message;
mod networks;
mod opening;
mod reply;
mod reverse;
mod server;
mod table;
mod tcp;
mod udp;
mod upstream;

pub use answer::{Answer, Data, Kind};
pub use lookups::Lookups;
pub use opening::Resolved;
pub use server::{DnsConfig, DnsError, DnsServer};
pub use table::{DnsTable, resolv_conf};

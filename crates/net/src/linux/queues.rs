//! By which queue the packets of a device go out.

use std::collections::BTreeMap;

use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::rtnl::{Netlink, refused};
use crate::{NetError, PACING_QUEUE};

/// A queue that only hands packets to others, one for each of the hardware's.
const SPREADING: &str = "mq";

/// A queue of a device.
#[derive(Clone, Debug)]
struct Queue {
    device: u32,
    handle: TcHandle,
    parent: TcHandle,
    kind: String,
}

impl Queue {
    fn new(message: TcMessage) -> Option<Self> {
        let kind = message.attributes.into_iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind),
            _ => None,
        });
        let header = message.header;
        let device = u32::try_from(header.index).ok()?;
        Some(Self { device, handle: header.handle, parent: header.parent, kind: kind? })
    }
}

/// The queue of each device that has one, by the device's name.
pub(super) async fn queues(netlink: &Netlink) -> Result<BTreeMap<String, String>, NetError> {
    let listed = netlink.collect(|| netlink.handle.qdisc().get().execute()).await.map_err(refused("list", "queues"))?;
    let queues: Vec<Queue> = listed.into_iter().filter_map(Queue::new).collect();
    let links = netlink.links().await?;
    Ok(links.into_iter().filter_map(|link| Some((link.name, queue_of(link.index, &queues)?))).collect())
}

/// What the device's packets go through. Pure.
fn queue_of(device: u32, queues: &[Queue]) -> Option<String> {
    let own = || queues.iter().filter(|queue| queue.device == device);
    let root = own().find(|queue| queue.parent == TcHandle::ROOT)?;
    let mut beneath =
        own().filter(|queue| queue.parent.major == root.handle.major && queue.parent.minor != 0).peekable();
    let spreads = root.kind == SPREADING && beneath.peek().is_some();
    let paces = spreads && beneath.all(|queue| queue.kind == PACING_QUEUE);
    Some(if paces { PACING_QUEUE.into() } else { root.kind.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_paces_if_every_queue_of_it_does() {
        let handle = |major, minor| TcHandle { major, minor };
        let queue =
            |device, major, parent, kind: &str| Queue { device, handle: handle(major, 0), parent, kind: kind.into() };
        let root = TcHandle::ROOT;
        // The kernel's own have no number: those beneath `mq` are told apart by their parent.
        let of = |second: &str| {
            [
                queue(2, 0x8001, root, "fq"),
                queue(3, 0, root, "mq"),
                queue(3, 0, handle(0, 1), "fq"),
                queue(3, 0, handle(0, 2), second),
                queue(4, 0xffff, TcHandle { major: 0xffff, minor: 0xfff1 }, "clsact"),
                queue(5, 1, root, "htb"),
                queue(5, 0x8002, handle(1, 10), "fq"),
                queue(6, 0, root, "mq"),
            ]
        };
        for (device, second, expected) in [
            (2, "fq", Some("fq")),
            (3, "fq", Some("fq")),
            (3, "fq_codel", Some("mq")),
            (4, "fq", None),
            // A class with fq is not all of the device.
            (5, "fq", Some("htb")),
            (6, "fq", Some("mq")),
            (7, "fq", None),
        ] {
            assert_eq!(queue_of(device, &of(second)).as_deref(), expected, "{device}, {second}");
        }
    }
}

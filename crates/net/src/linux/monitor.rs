//! Tells when something of the host's devices, addresses or routes may have changed.
//!
//! Our own instances come and go all the time, and are not what the caller waits for: their devices and routes are
//! passed over. Everything lost (a full socket buffer, a broken socket) counts as a change.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{RouteNetlinkMessage, link::LinkAttribute, route::RouteType},
};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::rtnl::{Route, TABLE_LOCAL};
use crate::{NetError, names::instance_of_device};

const GROUPS: &[MulticastGroup] = &[
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Pause before a broken socket is opened again.
const REOPEN: Duration = Duration::from_millis(200);

/// Listens for as long as it lives.
#[derive(Debug)]
pub(super) struct Monitor {
    changed: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Monitor {
    /// Listens to the calling thread's network namespace.
    pub(super) fn start() -> Result<Self, NetError> {
        let mut socket = Socket::open()?;
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        let task = tokio::spawn(async move {
            loop {
                while let Some((message, _)) = socket.messages.next().await {
                    if concerns_host(message.payload) {
                        notify.notify_one();
                    }
                }
                // The pooled threads are all in the namespace in which the runtime was made.
                socket = loop {
                    tokio::time::sleep(REOPEN).await;
                    match Socket::open() {
                        Ok(socket) => break socket,
                        Err(error) => tracing::warn!(%error, "cannot watch the host's network; trying again"),
                    }
                };
                notify.notify_one();
            }
        });
        Ok(Self { changed, _task: AbortOnDropHandle::new(task) })
    }

    /// Waits for a change; one that came since the last wait ended counts. Safe to cancel.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

type Messages = futures::channel::mpsc::UnboundedReceiver<(
    rtnetlink::packet_core::NetlinkMessage<RouteNetlinkMessage>,
    rtnetlink::sys::SocketAddr,
)>;

struct Socket {
    messages: Messages,
    _connection: AbortOnDropHandle<()>,
}

impl Socket {
    fn open() -> Result<Self, NetError> {
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(GROUPS).map_err(|source| NetError::NoSocket { source })?;
        Ok(Self { messages, _connection: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }
}

/// Whether a message is about more than an instance's own device and routes.
fn concerns_host(payload: NetlinkPayload<RouteNetlinkMessage>) -> bool {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return true,
        _ => return false,
    };
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => !link
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::IfName(name) if instance_of_device(name).is_some())),
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            Route::new(route).is_some_and(|route| {
                let instance = route.ours && route.kind == RouteType::Unicast && route.to.prefix_len() >= 32;
                route.table != TABLE_LOCAL && !instance
            })
        }
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => true,
        _ => false,
    }
}

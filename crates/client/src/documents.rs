//! What the operations name: their documents are the API's own types, not copies of them. A document that is new in the
//! description is added here.

pub(super) use bytes::Bytes;
pub(super) use futures::Stream;
pub(super) use http::Method;
pub(super) use serde::Serialize;
pub(super) use std::ops::Not;

pub(super) use super::{Channels, Client, Download, Lines, asked::Asked};
pub(super) use hivemind_api::{
    apps::{AppWritten, RollBack, Scale},
    capture::PacketView,
    changes::Change,
    contents::ContentView,
    dataplane::{DifferenceView, RowsView, RunsView, TableView},
    ending::{Kill, Killed, Until, Waited},
    exec::{DetachedExec, ExecStarted},
    files::CopiedView,
    flow_view::{FlowVerdict, FlowView},
    images::{ImageDetails, ImageView, ImagesChanged, Layers, PullView, PushView},
    instances::LogLineView,
    meta::VersionView,
    object_view::{NamespaceView, PolicyView, TenantView, TierView},
    pause::Paused,
    projects::ProjectChanged,
    tenants::{ChangedView, NamespaceBody, TenantBody},
    usage::{ProcessView, StatsView},
    view::{AppView, InstanceView, NodeView, ServiceView},
    volumes::VolumeView,
    why::{WhyBody, WhyView},
};
pub(super) use hivemind_core::{
    model::{Event, Past, Problem, Revision, Scope},
    spec::v1::{AppSpec, ContentSpec, PolicySpec, ProjectSpec, TierSpec, VolumeSpec},
};

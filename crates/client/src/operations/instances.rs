//! Made of the API's description by `cargo xtask docs`: instances.

use super::shared::*;
use crate::documents::*;

/// What else can be asked of [`Client::get_stats_of_all`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GetStatsOfAllArgs {
    /// Only of this tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// What else can be asked of [`Client::attach_to_instance`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AttachToInstanceArgs {
    /// Whether standard input will be sent; refused if the process has none.
    #[serde(skip_serializing_if = "Not::not")]
    pub stdin: bool,
    /// The terminal has so many rows, if the process has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
    /// It has so many columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cols: Option<u32>,
    /// To a sidecar of the instance, by its name; without it, to the app's own container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// What else can be asked of [`Client::capture_instance`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CaptureInstanceArgs {
    /// Only packets that are dropped.
    #[serde(skip_serializing_if = "Not::not")]
    pub dropped: bool,
    /// Only TCP, UDP and SCTP with this port at one end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// Only this protocol, by its number; ICMP of both families is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u32>,
    /// Only packets with this address at one end; of a service also the instance that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How many bytes of a packet are kept at most: 1 to 65536.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snaplen: Option<u32>,
}

/// What else can be asked of [`Client::exec_in_instance`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ExecInInstanceArgs {
    /// Variables, as a JSON list of `NAME=value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// With a terminal of so many rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
    /// With a terminal of so many columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cols: Option<u32>,
    /// Whether standard input will be sent.
    #[serde(skip_serializing_if = "Not::not")]
    pub stdin: bool,
    /// In a sidecar of the instance, by its name; without it, in the app's own container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// What else can be asked of [`Client::get_files`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GetFilesArgs {
    /// In a sidecar of the instance, by its name; without it, in the app's own container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// What else can be asked of [`Client::put_files`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PutFilesArgs {
    /// It must be a folder. Otherwise, one that is not there names what comes, as `cp` does.
    #[serde(skip_serializing_if = "Not::not")]
    pub folder: bool,
    /// In a sidecar of the instance, by its name; without it, in the app's own container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// What else can be asked of [`Client::get_instance_logs`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GetInstanceLogsArgs {
    /// Only the last so many lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<u64>,
    /// Also the lines to come.
    #[serde(skip_serializing_if = "Not::not")]
    pub follow: bool,
    /// Only lines at or after this moment, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Only lines behind the one with this `position`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Of a sidecar of the instance, by its name; without it, of the app's own container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// What else can be asked of [`Client::list_processes`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ListProcessesArgs {
    /// A sidecar of the instance by its name; without it, the app's own container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// What else can be asked of [`Client::wait_for_instance`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WaitForInstanceArgs {
    /// `ended`, `ready` or `gone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Until>,
}

impl Client {
    /// The instances of all namespaces.
    ///
    /// `GET /v1/instances`
    pub async fn list_all_instances(&self, args: &ListAllArgs) -> Result<Vec<InstanceView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/instances", &[]).query(args)?;
        self.document(asked).await
    }

    /// What the running instances of all namespaces use.
    ///
    /// `GET /v1/stats`
    pub async fn get_stats_of_all(&self, args: &GetStatsOfAllArgs) -> Result<Vec<StatsView>, Problem> {
        let asked = Asked::new(Method::GET, "/v1/stats", &[]).query(args)?;
        self.document(asked).await
    }

    /// The instances of a namespace.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/instances`
    pub async fn list_instances(&self, scope: &Scope, args: &ListArgs) -> Result<Vec<InstanceView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/instances", &parts).query(args)?;
        self.document(asked).await
    }

    /// An instance.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}`
    pub async fn get_instance(&self, scope: &Scope, name: &str) -> Result<InstanceView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/instances/{}", &parts);
        self.document(asked).await
    }

    /// Attach to the process of an instance, over a WebSocket: what it writes from now on, and its input. The messages
    /// are those of an exec, and 6: how many bytes of output were left out as JSON `{"bytes":4096}`, because they were
    /// not taken fast enough. Several may be attached at once. Closing the connection leaves the process alone.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/attach`
    pub async fn attach_to_instance(
        &self,
        scope: &Scope,
        name: &str,
        args: &AttachToInstanceArgs,
    ) -> Result<Channels, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/instances/{}/attach", &parts).query(args)?;
        self.channels(asked).await
    }

    /// The packets of an instance from now on, a JSON document for each: both directions at the instance, also those
    /// that are dropped, with the reason. It ends when the connection is closed or the instance is gone. What was lost
    /// on the way is said by documents of the kind `lost`.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/capture`
    pub async fn capture_instance(
        &self,
        scope: &Scope,
        name: &str,
        args: &CaptureInstanceArgs,
    ) -> Result<Lines<PacketView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/instances/{}/capture", &parts).query(args)?;
        self.lines(asked).await
    }

    /// Connect to a TCP port of an instance, also to one that listens on its loopback alone, over a WebSocket. The
    /// first byte of every message, which is binary, names a channel: 0 data to the instance, 1 data from it, 5 the
    /// client sends no more, 6 the instance sends no more.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/connect`
    pub async fn connect_to_instance(&self, scope: &Scope, name: &str, port: u32) -> Result<Channels, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/instances/{}/connect", &parts)
            .with("port", &port.to_string());
        self.channels(asked).await
    }

    /// Run a command in an instance, over a WebSocket. The first byte of every message, which is binary, names a
    /// channel: 0 input, 1 output, 2 error output, 3 how it ended as JSON `{"code":0}` (the last message), 4 the
    /// terminal's new size as JSON `{"rows":24,"cols":80}`, 5 end of input.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/exec`
    pub async fn exec_in_instance(
        &self,
        scope: &Scope,
        name: &str,
        command: &str,
        args: &ExecInInstanceArgs,
    ) -> Result<Channels, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/instances/{}/exec", &parts)
            .with("command", command)
            .query(args)?;
        self.channels(asked).await
    }

    /// Run a command in an instance that nobody waits for: it has no input, and its output goes nowhere.
    ///
    /// `POST /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/exec`
    pub async fn exec_detached(&self, scope: &Scope, name: &str, body: &DetachedExec) -> Result<ExecStarted, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::POST, "/v1/tenants/{}/namespaces/{}/instances/{}/exec", &parts).json(body)?;
        self.document(asked).await
    }

    /// A file or a folder of a running instance, as a tar archive. Names in it begin with the last part of the path, or
    /// with `.` if that is `/` or ends in `/.`. What a tar archive cannot carry is left out, and named by a comment at
    /// its end.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/files`
    pub async fn get_files(
        &self,
        scope: &Scope,
        name: &str,
        path: &str,
        args: &GetFilesArgs,
    ) -> Result<Download, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/instances/{}/files", &parts)
            .with("path", path)
            .query(args)?;
        self.download(asked).await
    }

    /// Write a tar archive into a running instance. Modes, owners and times are kept; no link of the instance is
    /// followed beneath the path.
    ///
    /// `POST /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/files`
    pub async fn put_files(
        &self,
        scope: &Scope,
        name: &str,
        path: &str,
        body: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        args: &PutFilesArgs,
    ) -> Result<CopiedView, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::POST, "/v1/tenants/{}/namespaces/{}/instances/{}/files", &parts)
            .with("path", path)
            .query(args)?;
        self.upload(asked, body).await
    }

    /// Send a signal to the first process of an instance. If it ends, its restart policy says what is done, as after a
    /// crash.
    ///
    /// `POST /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/kill`
    pub async fn kill_instance(
        &self,
        scope: &Scope,
        name: &str,
        body: &Kill,
        args: &DryRunArgs,
    ) -> Result<Killed, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::POST, "/v1/tenants/{}/namespaces/{}/instances/{}/kill", &parts)
            .query(args)?
            .json(body)?;
        self.document(asked).await
    }

    /// The log of an instance, a JSON document for each line.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/logs`
    pub async fn get_instance_logs(
        &self,
        scope: &Scope,
        name: &str,
        args: &GetInstanceLogsArgs,
    ) -> Result<Lines<LogLineView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/instances/{}/logs", &parts).query(args)?;
        self.lines(asked).await
    }

    /// Have all processes of an instance stand still. It gets no traffic, and its health is not asked for, until they
    /// go on. Being stopped or removed has them go on.
    ///
    /// `POST /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/pause`
    pub async fn pause_instance(&self, scope: &Scope, name: &str, args: &DryRunArgs) -> Result<Paused, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::POST, "/v1/tenants/{}/namespaces/{}/instances/{}/pause", &parts).query(args)?;
        self.document(asked).await
    }

    /// The processes of an instance.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/processes`
    pub async fn list_processes(
        &self,
        scope: &Scope,
        name: &str,
        args: &ListProcessesArgs,
    ) -> Result<Vec<ProcessView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked =
            Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/instances/{}/processes", &parts).query(args)?;
        self.document(asked).await
    }

    /// Have the processes of a paused instance go on.
    ///
    /// `POST /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/unpause`
    pub async fn unpause_instance(&self, scope: &Scope, name: &str, args: &DryRunArgs) -> Result<Paused, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked =
            Asked::new(Method::POST, "/v1/tenants/{}/namespaces/{}/instances/{}/unpause", &parts).query(args)?;
        self.document(asked).await
    }

    /// Wait until the process of an instance ends, it is Ready, or it is gone: one JSON document, once that is so or
    /// cannot come any more. A stream that ends without it was cut off: the daemon stops.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/instances/{name}/wait`
    pub async fn wait_for_instance(
        &self,
        scope: &Scope,
        name: &str,
        args: &WaitForInstanceArgs,
    ) -> Result<Lines<Waited>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str(), name];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/instances/{}/wait", &parts).query(args)?;
        self.lines(asked).await
    }

    /// What the running instances of a namespace use.
    ///
    /// `GET /v1/tenants/{tenant}/namespaces/{namespace}/stats`
    pub async fn get_stats(&self, scope: &Scope) -> Result<Vec<StatsView>, Problem> {
        let parts = [scope.tenant.as_str(), scope.namespace.as_str()];
        let asked = Asked::new(Method::GET, "/v1/tenants/{}/namespaces/{}/stats", &parts);
        self.document(asked).await
    }
}

//! The errors users see. Every edge (CLI, REST) speaks [`Problem`]; every inner error becomes one there.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $status:literal, $exit:literal, $explain:literal;)*) => {
        /// A stable error code. Codes are never reused or renumbered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $variant),* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as text, e.g. `E-APP-001`.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $code),* } }

            /// The HTTP status it travels with.
            pub const fn status(self) -> u16 { match self { $(Self::$variant => $status),* } }

            /// The exit code of the CLI.
            pub const fn exit_code(self) -> u8 { match self { $(Self::$variant => $exit),* } }

            /// What `hivemind explain CODE` prints: the meaning and how to mend it.
            pub const fn explain(self) -> &'static str { match self { $(Self::$variant => $explain),* } }
        }
    };
}

codes! {
    /// The document or a flag is not valid.
    Invalid = "E-SPEC-001", 422, 2, "A document, flag or field is not valid. Every fault found is listed. Correct them and run the command again.";
    /// The request is not valid HTTP for this API.
    BadRequest = "E-API-001", 400, 2, "The request could not be read: malformed JSON, an unknown field or a bad query parameter. See /openapi.json.";
    /// There is no such route.
    NoRoute = "E-API-002", 404, 3, "There is no such path in the API. The paths are listed in /openapi.json.";
    /// The route does not take this method.
    NoMethod = "E-API-005", 405, 2, "The path does not take this method. The header 'Allow' names those it takes; /openapi.json describes them.";
    /// The request comes from a web page of elsewhere.
    WrongHost = "E-API-006", 421, 5, "The request names a host that is not this daemon, as a web page does that has its own name point here. Use the address, 'localhost' or the node's name.";
    /// What was to be gone on from is not kept any more.
    Expired = "E-API-008", 410, 4, "The place in a list, or in a stream of events or log lines, from where you want to go on is too old: what came after it is not kept any more. Begin again, without the token or the position; the message says what is missing then.";
    /// A key was used for two requests.
    KeyUsed = "E-API-009", 422, 2, "The header Idempotency-Key has a key that was used for another request: other path, query, condition or body. A key is for one request and its repetitions; draw a new one for each change.";
    /// Another daemon has the socket.
    DaemonRuns = "E-API-007", 409, 4, "Another hivemind daemon answers on the socket. Stop it, or give this one other folders: --socket, --state-dir, --run-dir.";
    /// Not authenticated or not allowed.
    Forbidden = "E-AUTH-001", 403, 5, "You may not do this. Local commands need root (the socket is root-only); TCP requests need the header 'Authorization: Bearer TOKEN', the token is in the daemon's state directory, file 'api-token'.";
    /// No credentials were given.
    Unauthenticated = "E-AUTH-002", 401, 5, "The request carries no token. TCP requests need the header 'Authorization: Bearer TOKEN', the token is in the daemon's state directory, file 'api-token'.";
    /// Something that reaches the host.
    OperatorOnly = "E-AUTH-003", 403, 5, "What is to run has rights on the machine itself (folders of the node, devices, capabilities, a profile of its own, ...): that is for the operator only. The fields are named: leave them out, or ask the operator.";
    /// The app, instance, service or node does not exist.
    NotFound = "E-OBJ-001", 404, 3, "There is no object of that name in that tenant and namespace, or no such tenant or namespace. 'hivemind app ls', 'ps', 'service ls', 'policy ls', 'node ls', 'namespace ls' and 'tenant ls' list what there is; 'hivemind namespace create' and 'tenant create' make new ones.";
    /// The name is taken by something else, or the object owns others.
    Taken = "E-OBJ-002", 409, 4, "The name, DNS name or published port is used by another object: choose another one, or remove the other object. Or what is to be removed still owns others, or is used by them: remove them first; they are named.";
    /// The object changed since it was read.
    Conflict = "E-OBJ-003", 412, 4, "The object changed since it was read (If-Match did not hold). Read it again and repeat the change.";
    /// Nothing fits.
    Unschedulable = "E-SCHED-001", 422, 6, "No node can take the instance: not enough CPU, memory or addresses. 'hivemind node ls' shows what is free.";
    /// Addresses are used up.
    NoAddress = "E-NET-001", 507, 6, "The address range of the instances or services is used up. Remove instances or configure a larger range.";
    /// The configured ranges overlap the host's.
    RangeOverlap = "E-NET-002", 409, 1, "A configured address range overlaps an address or route of this machine. Choose other ranges: --instance-cidr4, --instance-cidr6, --service-cidr4, --service-cidr6.";
    /// A port of the host is in use.
    PortTaken = "E-NET-003", 409, 4, "The port is used by another process of this machine. 'ss -ltnup' names it. Choose another port.";
    /// Netlink or nftables refused.
    Network = "E-NET-004", 500, 1, "The kernel refused a network change; the message names the object. 'hivemind doctor' checks what is needed.";
    /// The image is not in the registry.
    ImageNotFound = "E-IMG-001", 404, 3, "The registry does not have that image or tag. Check the spelling, and the registry's host in front of the name.";
    /// The registry cannot be reached.
    RegistryDown = "E-IMG-002", 502, 1, "The registry, or a mirror of it, did not answer, or answers that it does not serve what it is asked for now; the message says what it said. Check its name, the network and the time; a registry without TLS needs --plain-http-registry HOST:PORT, one whose certificate is signed by an authority that the machine does not trust needs --registry-ca FILE.";
    /// The registry refused the credentials.
    RegistryAuth = "E-IMG-003", 401, 5, "The registry refused the credentials or wants some. They are read from the file of --registry-auth (Docker's config.json format), or asked for from the helper docker-credential-NAME that it names.";
    /// No manifest for this machine.
    ImagePlatform = "E-IMG-004", 422, 1, "The image has no variant for this machine's operating system and architecture. The message lists those it has.";
    /// The image's data is not what its digest says.
    ImageCorrupt = "E-IMG-005", 502, 1, "What the registry sent does not match its digest or is not an image. Push the image again.";
    /// What was to be imported is no archive of images.
    BadArchive = "E-IMG-006", 422, 1, "The archive is no tar archive, is not whole, has no image in it, or something in it does not match its digest. Nothing of it was taken. Write it again, with docker save or hivemind image export.";
    /// A builder has not made an image.
    BuildFailed = "E-BUILD-001", 422, 1, "An image could not be built, and nothing was changed. What the builder said is above the message: it is its own words. The message has its exit code. Mend the Dockerfile, or what it needs, and repeat the command.";
    /// There is nothing that builds images.
    NoBuilder = "E-BUILD-002", 424, 1, "A service has a build, and this machine has nothing that builds images; nothing was changed. Where 'hivemind up' is typed there must be BuildKit (buildctl, and a buildkitd that answers), Docker (docker with buildx, and a daemon that answers) or buildah ('apt-get install buildah'); they are looked for in this order, and --builder or HIVEMIND_BUILDER chooses one. The lines beneath the message say what is missing of each. Or build the image elsewhere and bring it: 'hivemind image push --from'.";
    /// The disk is full.
    DiskFull = "E-DISK-001", 507, 1, "A file system is full. Free space (the message names the path) and repeat; nothing half done was kept.";
    /// A volume's folder could not be made, written or removed.
    Storage = "E-VOL-001", 500, 1, "A folder of a volume, or what is mounted for an instance, could not be made or removed; the message names the path and says what the system said. It is tried again; 'hivemind volume info' shows a volume's folder.";
    /// A path of the node cannot be mounted.
    Mount = "E-VOL-002", 422, 1, "The path of the node that an instance is to have cannot be mounted: there is nothing, it is one of hivemind's own folders, or a symbolic link in a volume leads elsewhere. Make the path on the node ('--mount type=bind,source=/path,target=/path,bind-create-src' makes a folder), or name another one; it is tried again.";
    /// containerd does not answer.
    NoContainerd = "E-RUN-001", 503, 1, "containerd does not answer. Install it ('apt-get install containerd'), start it ('systemctl start containerd'), or name its socket with --containerd-socket.";
    /// The container could not be created or started.
    StartFailed = "E-RUN-002", 500, 1, "The container could not be created or started, or its process has ended by itself: the message says which, with the exit code. 'hivemind logs' shows what it wrote last; a command that does not exist in the image is the commonest cause at a first start.";
    /// The instance is not running.
    NotRunning = "E-RUN-003", 409, 4, "The instance is not running. 'hivemind ps' shows its state, 'hivemind logs' its last words.";
    /// The instance is paused.
    Paused = "E-RUN-004", 409, 4, "The processes of the instance stand still, so nothing can be run in it. 'hivemind unpause INSTANCE' has them go on.";
    /// Nobody can attach to the instance, or write to its input.
    NoAttach = "E-RUN-005", 409, 4, "Nobody can attach to the process of the instance as it was asked for: it has no input ('app deploy --interactive', in a Compose file 'stdin_open: true', gives it one), or it was started by a version of hivemind that knows of no attaching ('hivemind app restart APP' starts it anew). 'hivemind attach --no-stdin' only looks on; 'hivemind logs -f' always works.";
    /// A file of an instance, or one to copy, cannot be read or written.
    FileRefused = "E-FILE-001", 409, 1, "The kernel refused to read or write a file that was to be copied; the message names the file and says why. An instance with a read-only root takes files in its volumes and tmpfs only; sockets, pipes and devices cannot be copied, nor can what is mounted be replaced.";
    /// The health check failed.
    Unhealthy = "E-HEALTH-001", 500, 1, "The health check, or the startup or liveness probe, did not pass in time; the message says which, and why. The process is started again, with growing pauses. The last log lines are printed; 'hivemind logs' shows more.";
    /// The readiness probe fails.
    NotReady = "E-HEALTH-002", 503, 1, "The readiness probe fails; the message says why. The process goes on, and gets no traffic until the probe passes again. 'hivemind events' shows when it has failed and passed, 'hivemind logs' what the process says.";
    /// A deadline passed.
    TimedOut = "E-TIME-001", 504, 8, "The wait was longer than --timeout. The change goes on: 'hivemind ps' shows how far it is.";
    /// An update was taken back.
    RolledBack = "E-UPD-001", 409, 7, "The new instances of an app did not come up, so its last specification that was in place was put back; those of its instances that still ran have gone on serving. The reason is beside the message, and in 'hivemind history APP' later. Correct it and deploy again.";
    /// An update is held.
    UpdatePaused = "E-UPD-002", 409, 1, "The new instances of an app did not come up, and the update stays as it is: it was asked for so (--update-failure pause), or what it would go back to did not come up either or is not kept. What served goes on serving. Deploy again, or go back: 'hivemind rollback APP'.";
    /// The daemon does not answer.
    Unreachable = "E-CLI-001", 503, 9, "The daemon does not answer on its socket. Start it with 'hivemind daemon' (or 'systemctl start hivemind'), or name the socket with --socket.";
    /// The kernel lacks something.
    Kernel = "E-KERN-001", 500, 1, "The kernel lacks what the data plane needs. 'hivemind doctor' says what, and how to mend it. Linux 6.1 or newer with BTF is needed.";
    /// Not root.
    NotRoot = "E-KERN-002", 403, 5, "The daemon needs root: it loads eBPF programs and makes network namespaces. Run it with sudo.";
    /// A data-plane map is full or refused an entry.
    MapFull = "E-BPF-001", 507, 6, "A table of the data plane is full. The message names it and its size. Remove instances or services, or raise its size.";
    /// The data plane refused something.
    Dataplane = "E-BPF-002", 500, 1, "The kernel refused a data-plane program, map or link; the message names it. 'hivemind doctor' checks what is needed.";
    /// Programs and daemon do not belong together.
    NoPrograms = "E-BPF-003", 500, 1, "This binary was built without the eBPF programs. Build it with 'cargo xtask build'.";
    /// No more captures at once.
    Captures = "E-BPF-004", 409, 4, "As many captures of packets run on this node as there can be at once. End one: its 'hivemind capture' ends with Ctrl-C, or with its --count.";
    /// The kernel does not hold what was written.
    Drift = "E-BPF-005", 409, 1, "Something in the kernel is not what the daemon has written or attached: someone else has changed it. The lines beneath say what. The daemon puts it right within a minute and counts it in hivemind_dataplane_repairs; if it comes again, somebody goes on changing it.";
    /// The store failed.
    Store = "E-STORE-001", 500, 1, "The store could not be read or written; the message names the file. Check the disk and its permissions.";
    /// The store, or a row of it, belongs to a newer version.
    StoreVersion = "E-STORE-002", 500, 1, "The store was written by a newer version of hivemind, or rows of it that this version cannot read; the message names them. The daemon does not start, and has touched neither the store nor an instance. Start the version that wrote them ('hivemind --version' tells a program's). A row that no version reads was damaged: bring back a copy of the store's file.";
    /// The store is new, and the machine has instances.
    StoreLost = "E-STORE-003", 409, 4, "The store is empty, but instances of hivemind are on this machine: nothing would know of them, and they would be removed. Is the state directory mounted, and the right one? To remove them and begin anew, start the daemon once with --remove-unknown.";
    /// Policies do not do what a test expects.
    NotAsExpected = "E-POL-001", 409, 1, "A packet would pass that was expected not to, or the other way round. The lines beneath say which, and which rule of which policy decides; 'hivemind policy show' and 'hivemind policy tier show' print the rules.";
    /// A policy of the host would cut who applies it.
    OwnAccess = "E-POL-002", 409, 4, "With the policy, or without the one that is removed, the connection over which the command was given would be cut: it comes to this machine from outside, and no rule of a policy of the host accepts it. Add a rule that accepts your address, or name the port in the daemon's --failsafe-inbound; --force applies it all the same.";
    /// Something that should not happen.
    Internal = "E-INT-001", 500, 1, "A fault in hivemind itself. Please report it with the message and the daemon's log.";
    /// The server is stopping or not ready.
    Unavailable = "E-API-003", 503, 9, "The daemon is starting or stopping. Repeat in a moment; /readyz says what it waits for.";
    /// The request's body is too long.
    TooLarge = "E-API-004", 413, 2, "The request is larger than the API accepts (1 MiB).";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let known = Self::ALL.iter().copied().find(|code| code.as_str() == text);
        known.ok_or_else(|| serde::de::Error::custom(format!("unknown error code {text:?}")))
    }
}

impl utoipa::PartialSchema for ErrorCode {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .into()
    }
}

impl utoipa::ToSchema for ErrorCode {}

/// An error as users see it (RFC 9457 on the wire).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// The stable code.
    pub code: ErrorCode,
    /// What failed, where and why, in one line in the user's words.
    pub title: String,
    /// Further lines: one for each fault, node or instance concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// The next command to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// A problem with only its one line.
    pub fn new(code: ErrorCode, title: impl Into<String>) -> Self {
        Self { code, title: title.into(), details: Vec::new(), hint: None }
    }

    /// Adds a line.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// Sets the next command to try.
    #[must_use]
    pub fn hint(mut self, command: impl Into<String>) -> Self {
        self.hint = Some(command.into());
        self
    }
}

/// `error[E-APP-001]: title`, the details indented, then `try: hint`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.title)?;
        for line in &self.details {
            write!(f, "\n  {line}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\ntry: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// An error with its causes, for messages. What an error says of its cause itself is not said again.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text += &format!(": {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{ErrorCode, Problem, chain};

    #[test]
    fn causes_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{says}")]
        struct Link {
            says: &'static str,
            #[source]
            by: Option<Box<Self>>,
        }
        let link = |says, by: Option<Link>| Link { says, by: by.map(Box::new) };
        let innermost = link("no such device", None);
        let error = link("cannot open it", Some(link("refused: no such device", Some(innermost))));
        assert_eq!(chain(&error), "cannot open it: refused: no such device");
    }

    #[test]
    fn codes_are_unique_and_have_the_form() {
        let codes: BTreeSet<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(codes.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            let parts: Vec<_> = code.as_str().split('-').collect();
            assert!(parts.len() == 3 && parts[0] == "E" && parts[2].len() == 3, "{code}");
            assert!((400..600).contains(&code.status()), "{code}");
            assert!((1..=9).contains(&code.exit_code()), "{code}");
        }
    }

    #[test]
    fn codes_end_the_command_line_by_their_class() {
        use ErrorCode as Code;
        // As `hivemind --help` lists them.
        let classes: [(u8, &[ErrorCode]); 9] = [
            (
                1,
                &[
                    Code::RangeOverlap,
                    Code::Network,
                    Code::RegistryDown,
                    Code::ImagePlatform,
                    Code::ImageCorrupt,
                    Code::BadArchive,
                    Code::BuildFailed,
                    Code::NoBuilder,
                    Code::DiskFull,
                    Code::FileRefused,
                    Code::Storage,
                    Code::Mount,
                    Code::NoContainerd,
                    Code::StartFailed,
                    Code::Unhealthy,
                    Code::NotReady,
                    Code::Kernel,
                    Code::Dataplane,
                    Code::NoPrograms,
                    Code::Drift,
                    Code::Store,
                    Code::StoreVersion,
                    Code::NotAsExpected,
                    Code::UpdatePaused,
                    Code::Internal,
                ],
            ),
            (2, &[Code::Invalid, Code::BadRequest, Code::NoMethod, Code::TooLarge, Code::KeyUsed]),
            (3, &[Code::NoRoute, Code::NotFound, Code::ImageNotFound]),
            (
                4,
                &[
                    Code::Expired,
                    Code::DaemonRuns,
                    Code::Taken,
                    Code::Conflict,
                    Code::PortTaken,
                    Code::NotRunning,
                    Code::Paused,
                    Code::NoAttach,
                    Code::Captures,
                    Code::StoreLost,
                    Code::OwnAccess,
                ],
            ),
            (
                5,
                &[
                    Code::WrongHost,
                    Code::Forbidden,
                    Code::Unauthenticated,
                    Code::OperatorOnly,
                    Code::RegistryAuth,
                    Code::NotRoot,
                ],
            ),
            (6, &[Code::Unschedulable, Code::NoAddress, Code::MapFull]),
            (7, &[Code::RolledBack]),
            (8, &[Code::TimedOut]),
            (9, &[Code::Unreachable, Code::Unavailable]),
        ];
        let mut seen = BTreeSet::new();
        for (exit, codes) in classes {
            for code in codes {
                assert_eq!(code.exit_code(), exit, "{code}");
                assert!(seen.insert(*code), "{code} is in two classes");
            }
        }
        let missing: Vec<_> = ErrorCode::ALL.iter().filter(|code| !seen.contains(code)).collect();
        assert!(missing.is_empty(), "of no class: {missing:?}");
    }

    #[test]
    fn a_problem_prints_what_why_and_the_next_command() {
        let problem = Problem::new(ErrorCode::NotFound, "app web-ap not found in default/default")
            .detail("did you mean web-app?")
            .hint("hivemind app ls");
        assert_eq!(
            problem.to_string(),
            "error[E-OBJ-001]: app web-ap not found in default/default\n  did you mean web-app?\ntry: hivemind app ls"
        );
    }
}

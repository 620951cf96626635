//! The Model Context Protocol, both eras: 2026-07-28 (stateless, "modern") and the handshake versions before it ("legacy").

pub mod envelope;
pub mod era;
pub mod frame;
pub mod headers;
pub mod reply;
pub mod tool;

use std::borrow::Cow;

use crate::json::RawBuf;

pub use envelope::{Id, IdBuf, Message, Notification, Params, Request, Response};
pub use era::{ClientCapabilities, Era, Initialize, Legacy, Meta, Modern};
pub use headers::{HeaderParam, Headers};
pub use tool::{Annotations, ToolDefinition};

/// JSON-RPC and MCP error codes that we send.
pub mod code {
    pub const PARSE_ERROR: i32 = -32700;
    pub const INVALID_REQUEST: i32 = -32600;
    pub const METHOD_NOT_FOUND: i32 = -32601;
    pub const INVALID_PARAMS: i32 = -32602;
    pub const INTERNAL_ERROR: i32 = -32603;
    /// 2026-07-28: a header is missing or differs from the body.
    pub const HEADER_MISMATCH: i32 = -32020;
    /// 2026-07-28: the request did not declare a capability that the answer needs.
    pub const MISSING_CAPABILITY: i32 = -32021;
    /// 2026-07-28: `data.supported` lists what we speak.
    pub const UNSUPPORTED_VERSION: i32 = -32022;
    /// 2025-11-25 only; never sent to a modern client.
    pub const URL_ELICITATION_REQUIRED: i32 = -32042;
}

/// The key of `_meta` with the protocol version of a modern request.
pub const META_PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// The key of `_meta` with what this request's client can do.
pub const META_CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// The key of `_meta` with what the client says it is. Never for security.
pub const META_CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// The key of `_meta` with the wanted log level.
pub const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// The key of `_meta` of a result with who answered.
pub const META_SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// The key of `_meta` that ties a notification to its `subscriptions/listen`.
pub const META_SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
/// The name of the tasks extension (SEP-2663).
pub const EXTENSION_TASKS: &str = "io.modelcontextprotocol/tasks";

/// A protocol revision that we speak, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    V2025_03_26,
    V2025_06_18,
    V2025_11_25,
    V2026_07_28,
}

impl Version {
    /// The newest revision with a handshake.
    pub const LATEST_LEGACY: Self = Self::V2025_11_25;
    /// The only modern revision.
    pub const MODERN: Self = Self::V2026_07_28;

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The revision of exactly that name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28].into_iter().find(|version| version.as_str() == text)
    }

    pub fn is_modern(self) -> bool {
        self >= Self::MODERN
    }
}

/// A request method that we know. Any other is refused before policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    Discover,
    Initialize,
    Ping,
    ToolsList,
    ToolsCall,
    PromptsList,
    PromptsGet,
    ResourcesList,
    ResourceTemplatesList,
    ResourcesRead,
    ResourcesSubscribe,
    ResourcesUnsubscribe,
    Complete,
    LoggingSetLevel,
    TasksGet,
    TasksUpdate,
    TasksCancel,
    TasksList,
    TasksResult,
    SubscriptionsListen,
}

impl Method {
    const ALL: [Self; 20] = [
        Self::ToolsCall,
        Self::ToolsList,
        Self::Discover,
        Self::Initialize,
        Self::Ping,
        Self::PromptsList,
        Self::PromptsGet,
        Self::ResourcesList,
        Self::ResourceTemplatesList,
        Self::ResourcesRead,
        Self::ResourcesSubscribe,
        Self::ResourcesUnsubscribe,
        Self::Complete,
        Self::LoggingSetLevel,
        Self::TasksGet,
        Self::TasksUpdate,
        Self::TasksCancel,
        Self::TasksList,
        Self::TasksResult,
        Self::SubscriptionsListen,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discover => "server/discover",
            Self::Initialize => "initialize",
            Self::Ping => "ping",
            Self::ToolsList => "tools/list",
            Self::ToolsCall => "tools/call",
            Self::PromptsList => "prompts/list",
            Self::PromptsGet => "prompts/get",
            Self::ResourcesList => "resources/list",
            Self::ResourceTemplatesList => "resources/templates/list",
            Self::ResourcesRead => "resources/read",
            Self::ResourcesSubscribe => "resources/subscribe",
            Self::ResourcesUnsubscribe => "resources/unsubscribe",
            Self::Complete => "completion/complete",
            Self::LoggingSetLevel => "logging/setLevel",
            Self::TasksGet => "tasks/get",
            Self::TasksUpdate => "tasks/update",
            Self::TasksCancel => "tasks/cancel",
            Self::TasksList => "tasks/list",
            Self::TasksResult => "tasks/result",
            Self::SubscriptionsListen => "subscriptions/listen",
        }
    }

    /// The method of exactly that name, of either era.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == name)
    }

    /// Whether revision 2026-07-28 (with the tasks extension) has this method.
    pub fn is_modern(self) -> bool {
        match self {
            Self::Initialize
            | Self::Ping
            | Self::ResourcesSubscribe
            | Self::ResourcesUnsubscribe
            | Self::LoggingSetLevel
            | Self::TasksList
            | Self::TasksResult => false,
            Self::Discover
            | Self::ToolsList
            | Self::ToolsCall
            | Self::PromptsList
            | Self::PromptsGet
            | Self::ResourcesList
            | Self::ResourceTemplatesList
            | Self::ResourcesRead
            | Self::Complete
            | Self::TasksGet
            | Self::TasksUpdate
            | Self::TasksCancel
            | Self::SubscriptionsListen => true,
        }
    }

    /// Whether the handshake revisions have this method (tasks: 2025-11-25).
    pub fn is_legacy(self) -> bool {
        !matches!(self, Self::Discover | Self::TasksUpdate | Self::SubscriptionsListen)
    }

    /// Whether a complete modern result of this method must carry `ttlMs` and `cacheScope`.
    pub fn is_cacheable(self) -> bool {
        matches!(self, Self::Discover | Self::ToolsList | Self::PromptsList | Self::ResourcesList | Self::ResourceTemplatesList | Self::ResourcesRead)
    }
}

/// A message that we do not take: the whole answer to it, safe for anyone to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub http_status: u16,
    /// JSON-RPC error code, see [`code`].
    pub code: i32,
    pub message: Cow<'static, str>,
    /// `error.data`.
    pub data: Option<RawBuf>,
    /// The id to echo; without one the answer has none.
    pub id: Option<IdBuf>,
}

impl Refusal {
    /// A refusal with HTTP status 400, without id and data.
    pub fn bad_request(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { http_status: 400, code, message: message.into(), data: None, id: None }
    }

    /// The same, echoing `id`.
    #[must_use]
    pub fn with_id(mut self, id: Option<Id<'_>>) -> Self {
        self.id = id.map(Id::to_owned);
        self
    }

    /// An unknown method: HTTP 404 on a modern request, 200 on a legacy one.
    pub fn unknown_method(id: Id<'_>, modern: bool) -> Self {
        Self {
            http_status: if modern { 404 } else { 200 },
            code: code::METHOD_NOT_FOUND,
            message: Cow::Borrowed("method not found"),
            data: None,
            id: Some(id.to_owned()),
        }
    }

    /// What a tool that does not exist gets, and a tool that the caller may not know of: the same bytes.
    pub fn unknown_tool(id: Id<'_>, name: &str) -> Self {
        let shown: String = name.chars().take(tool::MAX_NAME_BYTES).collect();
        Self {
            http_status: 200,
            code: code::INVALID_PARAMS,
            message: Cow::Owned(format!("Unknown tool: {shown}")),
            data: None,
            id: Some(id.to_owned()),
        }
    }

    /// The answer needs a client capability that this request did not declare, as a JSON object like `{"elicitation":{}}`.
    pub fn missing_capability(id: Id<'_>, required: crate::json::Raw<'_>) -> Self {
        let data = RawBuf::trusted(format!("{{\"requiredCapabilities\":{}}}", required.text()));
        Self {
            http_status: 400,
            code: code::MISSING_CAPABILITY,
            message: Cow::Borrowed("the client did not declare a capability that this request needs"),
            data: Some(data),
            id: Some(id.to_owned()),
        }
    }
}

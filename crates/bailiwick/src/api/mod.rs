//! The HTTP API and the pages: every route but MCP, each with its proof, and one document that names them all.

mod asker;
mod authzen;
mod body;
mod enrol;
mod events;
mod exports;
mod federation;
mod health;
mod hold_view;
mod holds;
mod instances;
mod leases;
mod ledger;
mod oauth;
mod onward;
mod payloads;
mod people;
mod problem;
mod record;
mod registry;
mod root_key;
mod routes;
mod spiffe_bundle;
mod standing;
mod tasks;
mod trace;
mod web;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use bailiwick_core::ErrorCode;
use bailiwick_store::TaskRow;
use http::{HeaderName, HeaderValue, StatusCode, header};
use utoipa::OpenApi as _;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};

use asker::Api;
use problem::Problem;
use routes::Routes;

use crate::house::House;
use crate::mcp::cors::Browser;
use crate::pages::CONTENT_SECURITY_POLICY;
use crate::tasks::OpenedTask;

pub use health::metrics_handle;

/// A request that is not answered by then is given up. Calls do not come this way.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Every route but MCP, as a service. The listener puts the peer's address beside each request, as `ConnectInfo<SocketAddr>`.
pub fn router(house: Arc<House>) -> Router {
    metrics_handle();
    let api = Arc::new(Api::new(house));
    let routes = all().router.merge(ledger::files());
    routes
        .fallback(async || Problem::invalid("there is no such route").with_status(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || Problem::invalid("the route does not take this method").with_status(StatusCode::METHOD_NOT_ALLOWED))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), guarded))
        .with_state(api)
}

/// The OpenAPI document of [`router`], as JSON. Made from the same table, so that it names every route.
#[must_use]
pub fn openapi_json() -> String {
    all().document.to_pretty_json().unwrap_or_default()
}

/// A task that was opened, as the text that its agent's model reads: the task, and what was not granted. Without a token.
#[must_use]
pub fn opened_text(house: &House, opened: &OpenedTask) -> String {
    let live = &opened.live;
    let (task, state) = (bailiwick_core::Task::clone(&live.task), bailiwick_core::TaskState::Open);
    let row = TaskRow { task, state, used: live.used(), labels: live.labels() };
    serde_json::json!({ "task": tasks::TaskDocument::new(house, &row), "narrowed": opened.narrowed }).to_string()
}

/// The document's frame.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Bailiwick", description = "The operator and agent API of Bailiwick, the broker between AI models and sensitive systems. Calls themselves go over MCP, at `/mcp`."),
    components(schemas(
        problem::ProblemDocument<'static>, oauth::TokenForm, oauth::TokenQueryForm, oauth::TokenDocument, oauth::OauthErrorDocument, oauth::ConsentForm, authzen::ThingDocument, authzen::ActionDocument, authzen::QuestionDocument,
        authzen::QuestionsDocument, authzen::OptionsDocument, authzen::Semantic, authzen::DecisionDocument,
        authzen::SubmissionDocument, authzen::DenialDocument, authzen::AccessTaskDocument, authzen::TaskHandle,
        tasks::TaskDocument, tasks::GrantedTool, tasks::OpenedDocument, tasks::TaskList, crate::tasks::TaskRequest, crate::tasks::AskedBudget,
        holds::HoldDocument, holds::HoldList, holds::Decision,
        enrol::EnrolmentRequest, enrol::EnrolmentDocument, enrol::EnrolRequest, enrol::EnrolledDocument, enrol::AgentKeyDocument, enrol::AgentKeyList,
        instances::InstanceDocument, instances::InstanceList, standing::SuspensionDocument,
        registry::ToolDocument, registry::ToolList, registry::Classification, registry::AgentDocument, registry::AgentList,
        registry::SystemDocument, registry::SystemList, registry::SecretList, record::LedgerPage, record::LedgerEntry, ledger::LedgerStatus, ledger::ShardDocument, ledger::LedgerIncident, health::Readiness, exports::ExportList, crate::export::ExportStatus, crate::root_key::RootStatus, leases::LeaseDocument, leases::LeaseList, leases::ByHand, leases::CheckReport,
        crate::trace::Trace, crate::trace::Chain, crate::trace::TracedTask, crate::trace::Decision, crate::trace::TracedHold,
        crate::trace::Outcome, crate::trace::TracedLease, crate::trace::Entry, crate::trace::Head, crate::trace::asked::Page, trace::Rebuilt,
        crate::trace::changes::Changes, crate::trace::changes::Change, crate::trace::changes::Answered, crate::trace::changes::Read,
        crate::trace::changes::Redefined, crate::trace::person::Answerable, crate::trace::person::OwnedAgent, crate::trace::person::TaskLine,
        crate::trace::person::CallLine, crate::trace::person::ApprovalLine, crate::trace::person::DeedLine, crate::trace::difference::Difference,
        crate::trace::difference::Stretch, crate::trace::difference::Differing, crate::trace::difference::Appeared, crate::trace::difference::Number,
        crate::payload::CallTexts, crate::payload::Text, payloads::ErasureRequest, payloads::ErasureReport, payloads::PruneRequest, payloads::PruneReport,
        web::SignInCode, web::SignInForm, web::DecisionForm, people::PersonDocument, people::PasskeyDocument, people::SessionDocument, people::PersonList, people::PersonChange, people::Invitation,
        events::SsfConfiguration, events::PollRequest, events::PollAnswer, events::VerificationRequest, web::ways::LogoutForm, web::ways::PasskeyForm, web::account::NewPasskeyForm, web::account::EndForm,
    )),
)]
struct Document;

fn document() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let bearer =
        |words: &str| SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(Some(words)).build());
    let api_key = |key: ApiKey| SecurityScheme::ApiKey(key);
    let schemes = [
        ("agent_token", bearer("An agent's token, from the token endpoint. It opens tasks.")),
        ("task_token", bearer("The token of one open task.")),
        (
            "person",
            bearer(
                "A person's proof: a JWT made for this one request and signed with the person's own key. `Authorization: Bailiwick-Person <JWT>`, or as a bearer token.",
            ),
        ),
        ("enrolment", bearer("A one-time token, in the body: see `bailiwick agent enrol`.")),
        ("client_assertion", bearer("`private_key_jwt` in the form (RFC 7523 section 2.2), not in a header.")),
        ("session", api_key(ApiKey::Cookie(ApiKeyValue::new("bailiwick_session")))),
        ("form", api_key(ApiKey::Cookie(ApiKeyValue::new("bailiwick_form")))),
    ];
    let components = document.components.get_or_insert_default();
    for (name, scheme) in schemes {
        components.add_security_scheme(name, scheme);
    }
    document
}

/// The table of all routes.
#[expect(clippy::too_many_lines, reason = "a line for each route")]
fn all() -> Routes {
    enrol::routes(Routes::new(document()))
        .add(oauth::__path_token, oauth::token)
        .add(authzen::__path_evaluation, authzen::evaluation)
        .add(authzen::__path_evaluations, authzen::evaluations)
        .add(authzen::__path_search_subject, authzen::search_subject)
        .add(authzen::__path_search_resource, authzen::search_resource)
        .add(authzen::__path_search_action, authzen::search_action)
        .add(authzen::__path_submit, authzen::submit)
        .add(authzen::__path_status, authzen::status)
        .add(authzen::__path_cancel, authzen::cancel)
        .add(authzen::__path_metadata, authzen::metadata)
        .add(oauth::__path_authorize, oauth::authorize)
        .add(oauth::__path_consent, oauth::consent)
        .add(oauth::__path_decide_consent, oauth::decide_consent)
        .add(oauth::__path_register, oauth::register)
        .add(oauth::__path_introspect, oauth::introspect)
        .add(oauth::__path_revoke, oauth::revoke)
        .add(oauth::__path_server_metadata, oauth::server_metadata)
        .add(oauth::__path_resource_of_host, oauth::resource_of_host)
        .add(oauth::__path_resource_of_mcp, oauth::resource_of_mcp)
        .add(oauth::__path_resource_of_system, oauth::resource_of_system)
        .add(oauth::__path_resource_of_task, oauth::resource_of_task)
        .add(oauth::__path_jwks, oauth::jwks)
        .add(spiffe_bundle::__path_bundle, spiffe_bundle::bundle)
        .add(federation::__path_discovery, federation::discovery)
        .add(federation::__path_keys, federation::keys)
        .add(tasks::__path_open, tasks::open)
        .add(tasks::__path_list, tasks::list)
        .add(tasks::__path_show, tasks::show)
        .add(tasks::__path_complete, tasks::complete)
        .add(tasks::__path_revoke, tasks::revoke)
        .add(holds::__path_list, holds::list)
        .add(holds::__path_show, holds::show)
        .add(holds::__path_approve, holds::approve)
        .add(holds::__path_refuse, holds::refuse)
        .add(registry::__path_tools, registry::tools)
        .add(registry::__path_classify, registry::classify)
        .add(registry::__path_agents, registry::agents)
        .add(standing::__path_suspend, standing::suspend)
        .add(standing::__path_resume, standing::resume)
        .add(instances::__path_list, instances::list)
        .add(instances::__path_revoke, instances::revoke)
        .add(registry::__path_systems, registry::systems)
        .add(registry::__path_secrets, registry::secrets)
        .add(trace::__path_trace, trace::trace)
        .add(trace::__path_entries, trace::entries)
        .add(trace::__path_changes, trace::changes)
        .add(trace::__path_person_report, trace::person_report)
        .add(trace::__path_difference_report, trace::difference_report)
        .add(trace::__path_rebuild_index, trace::rebuild_index)
        .add(payloads::__path_texts, payloads::texts)
        .add(payloads::__path_erase, payloads::erase)
        .add(payloads::__path_prune, payloads::prune)
        .add(record::__path_checkpoint, record::checkpoint)
        .add(record::__path_entries, record::entries)
        .add(ledger::__path_receipt, ledger::receipt)
        .add(ledger::__path_status, ledger::status)
        .add(web::__path_sign_in_code, web::sign_in_code)
        .add(web::__path_sign_in_page, web::sign_in_page)
        .add(web::__path_sign_in, web::sign_in)
        .add(web::__path_sign_out, web::sign_out)
        .add(web::__path_approvals, web::approvals)
        .add(web::__path_approval, web::approval)
        .add(web::__path_decide, web::decide)
        .add(web::__path_style, web::style)
        .add(people::__path_list, people::list)
        .add(people::__path_disable, people::disable)
        .add(people::__path_enable, people::enable)
        .add(people::__path_sign_out, people::sign_out)
        .add(people::__path_end_session, people::end_session)
        .add(people::__path_remove_passkey, people::remove_passkey)
        .add(people::__path_revoke_key, people::revoke_key)
        .add(people::__path_invite, people::invite)
        .add(events::__path_take, events::take)
        .add(events::__path_poll, events::poll)
        .add(events::__path_streams, events::streams)
        .add(events::__path_stream_status, events::stream_status)
        .add(events::__path_verify, events::verify)
        .add(events::__path_configuration, events::configuration)
        .add(web::ways::__path_provider, web::ways::provider)
        .add(web::ways::__path_callback, web::ways::callback)
        .add(web::ways::__path_back_channel_logout, web::ways::back_channel_logout)
        .add(web::ways::__path_passkey, web::ways::passkey)
        .add(web::ways::__path_script, web::ways::script)
        .add(web::account::__path_account, web::account::account)
        .add(web::account::__path_add_passkey, web::account::add_passkey)
        .add(web::account::__path_remove_passkey, web::account::remove_passkey)
        .add(web::account::__path_end_session, web::account::end_session)
        .add(exports::__path_list, exports::list)
        .add(leases::__path_list, leases::list)
        .add(leases::__path_show, leases::show)
        .add(leases::__path_end, leases::end)
        .add(leases::__path_check, leases::check)
        .add(root_key::__path_show, root_key::show)
        .add(root_key::__path_rotate, root_key::rotate)
        .add(health::__path_alive, health::alive)
        .add(health::__path_ready, health::ready)
        .add(health::__path_counted, health::counted)
        .add(__path_described, described)
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses((status = 200, description = "The OpenAPI document.", body = Object)))]
async fn described() -> Response {
    let mut response = openapi_json().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Around every route: a limit on time, and headers that keep browsers from doing more with an answer than showing it.
async fn guarded(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let browser = Browser::of(&api.house, request.uri().path(), request.headers());
    let preflight = browser.as_ref().and_then(|browser| browser.preflight(request.method(), request.headers()));
    let mut response = match preflight {
        Some(answer) => (StatusCode::NO_CONTENT, answer).into_response(),
        None => answered(request, next).await,
    };
    let headers = response.headers_mut();
    if let Some(browser) = &browser {
        browser.mark(headers);
    }
    // A page whose form leads to a client says so itself.
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if api.house.urls.base.starts_with("https://") {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

async fn answered(request: Request, next: Next) -> Response {
    let late =
        |_| Problem::because(ErrorCode::Internal, "the broker did not answer in time").with_status(StatusCode::SERVICE_UNAVAILABLE).into_response();
    tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_route_with_a_summary_and_its_refusals() {
        let document: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let operations: Vec<_> = paths.values().flat_map(|p| p.as_object().unwrap().values()).collect();
        assert_eq!(operations.len(), 102);
        for operation in operations {
            assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{operation}");
            assert!(operation["responses"]["default"].is_object(), "{operation}");
        }
    }

    #[test]
    fn every_shape_that_the_document_refers_to_is_in_it() {
        let text = openapi_json();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for rest in text.split("#/components/schemas/").skip(1) {
            let name = rest.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
    }
}

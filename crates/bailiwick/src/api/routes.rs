//! One table for the router and the OpenAPI document: a route is served and documented by the same line, or not at all.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use utoipa::openapi::path::HttpMethod;
use utoipa::openapi::{Content, OpenApi, Ref, ResponseBuilder};

use super::asker::Api;

/// Routes, as they are added.
pub(super) struct Routes {
    pub(super) router: Router<Arc<Api>>,
    pub(super) document: OpenApi,
}

impl Routes {
    pub(super) fn new(document: OpenApi) -> Self {
        Self { router: Router::new(), document }
    }

    /// Adds one route. Path and method are those of the document; every operation can also answer with a problem.
    pub(super) fn add<P: utoipa::Path, H: Handler<T, Arc<Api>>, T: 'static>(mut self, _documented: P, handler: H) -> Self {
        let mut operation = P::operation();
        let problem = Content::new(Some(Ref::from_schema_name("Problem")));
        let refused = ResponseBuilder::new().description("Refused: see `code` and `hint`.").content("application/problem+json", problem).build();
        operation.responses.responses.entry("default".to_owned()).or_insert_with(|| refused.into());
        let path = P::path();
        for method in P::methods() {
            let filter = match method {
                HttpMethod::Get => MethodFilter::GET,
                HttpMethod::Post => MethodFilter::POST,
                HttpMethod::Put => MethodFilter::PUT,
                HttpMethod::Delete => MethodFilter::DELETE,
                HttpMethod::Options => MethodFilter::OPTIONS,
                HttpMethod::Head => MethodFilter::HEAD,
                HttpMethod::Patch => MethodFilter::PATCH,
                HttpMethod::Trace => MethodFilter::TRACE,
            };
            self.router = self.router.route(&path, on(filter, handler.clone()));
        }
        self.document.paths.add_path_operation(path, P::methods(), operation);
        self
    }
}

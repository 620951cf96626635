//! What the fixture offers: tools, prompts and resources by the names that the conformance suite expects.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rmcp::model::{Prompt, Resource, ResourceTemplate, Tool};
use serde::Deserialize;

const TEXT: &str = include_str!("catalogue.json");

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Catalogue {
    pub(crate) tools: Vec<Tool>,
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) resource_templates: Vec<ResourceTemplate>,
}

impl Catalogue {
    pub(crate) fn load() -> Result<Arc<Self>> {
        serde_json::from_str(TEXT).map(Arc::new).context("catalogue.json")
    }

    pub(crate) fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }
}

//! An HTTP API of orders with an OpenAPI document, which asks for a key and tells too much of what it was asked: it echoes keys in every way that it can.

use std::collections::BTreeMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::server::lock;
use super::{Asked, Service, Told};

/// The API. Its paths stand behind `/v1`.
#[derive(Debug)]
pub struct Orders {
    key: String,
    orders: Mutex<BTreeMap<u64, Value>>,
}

impl Orders {
    /// With two orders, for whoever has the key: as a bearer, in `X-Api-Key`, as the password of `shop`, or as `key` in the query.
    #[must_use]
    pub fn new(key: &str) -> Self {
        let orders = [(1, json!({ "id": 1, "item": "tea", "state": "open" })), (2, json!({ "id": 2, "item": "cups", "state": "sent" }))];
        Self { key: key.to_owned(), orders: Mutex::new(orders.into()) }
    }

    /// Every order, by its number.
    #[must_use]
    pub fn orders(&self) -> BTreeMap<u64, Value> {
        lock(&self.orders).clone()
    }

    /// Its document.
    #[must_use]
    pub fn document() -> Value {
        let order = json!({ "type": "object", "required": ["item"], "properties": {
            "id": { "type": "integer", "readOnly": true }, "item": { "type": "string", "maxLength": 100 },
            "state": { "type": "string", "enum": ["open", "sent"] } } });
        let number = json!({ "name": "orderId", "in": "path", "required": true, "schema": { "type": "integer", "minimum": 1 } });
        let answer = |schema: Value| json!({ "200": { "description": "it worked", "content": { "application/json": { "schema": schema } } } });
        let body = json!({ "required": true, "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Order" } } } });
        json!({
            "openapi": "3.1.0",
            "info": { "title": "Orders", "version": "1" },
            "servers": [{ "url": "https://elsewhere.example/v1" }],
            "components": { "securitySchemes": { "Key": { "type": "apiKey", "in": "header", "name": "X-Api-Key" } }, "schemas": { "Order": order }, "parameters": { "Key": { "name": "X-Api-Key", "in": "header", "required": true, "schema": { "type": "string" } } } },
            "paths": {
                "/orders": {
                    "parameters": [{ "$ref": "#/components/parameters/Key" }],
                    "get": { "operationId": "listOrders", "summary": "List orders", "parameters": [{ "name": "state", "in": "query", "schema": { "type": "array", "items": { "enum": ["open", "sent"] } } }],
                        "responses": answer(json!({ "type": "array", "items": { "$ref": "#/components/schemas/Order" } })) },
                    "post": { "operationId": "addOrder", "description": "Adds an order.", "requestBody": body, "responses": answer(json!({ "$ref": "#/components/schemas/Order" })) },
                },
                "/orders/{orderId}": {
                    "parameters": [number],
                    "get": { "operationId": "getOrder", "responses": answer(json!({ "$ref": "#/components/schemas/Order" })) },
                    "delete": { "operationId": "removeOrder" },
                },
                "/orders/search": { "post": { "operationId": "searchOrders", "requestBody": { "content": { "application/json": { "schema": { "type": "object", "properties": { "item": { "type": "string" } } } } } } } },
                "/orders/{orderId}/refund": { "post": { "operationId": "refundOrder", "parameters": [number] } },
                "/echo": { "get": { "operationId": "echo" } },
                "/moved": { "get": { "operationId": "moved" } },
                "/upload": { "post": { "operationId": "upload", "requestBody": { "required": true, "content": { "multipart/form-data": {} } } } },
            },
        })
    }

    fn knows(&self, asked: &Asked) -> bool {
        let basic = format!("Basic {}", STANDARD.encode(format!("shop:{}", self.key)));
        asked.bearer() == self.key
            || asked.header("x-api-key") == self.key
            || asked.header("authorization") == basic
            || asked.query().get("key").is_some_and(|given| *given == [self.key.clone()])
    }

    /// The request, and the key in every way that programs write it.
    fn echo(&self, asked: &Asked) -> Told {
        let hex: String = self.key.bytes().map(|byte| format!("{byte:02x}")).collect();
        let percent: String = self.key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let html: String = self.key.chars().map(|c| format!("&#{};", u32::from(c))).collect();
        let escaped: String = self.key.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
        let body = json!({
            "headers": asked.headers, "query": asked.query, "plain": self.key, "hex": hex, "percent": percent, "html": html, "escaped": escaped,
            "base64": STANDARD.encode(format!("key={}", self.key)), "backwards": self.key.chars().rev().collect::<String>(), "text": json!({ "key": self.key }).to_string(),
        });
        let mut told = Told::json(200, &body);
        told.headers.push(("x-request-id", self.key.clone()));
        told.headers.push(("set-cookie", format!("session={}", self.key)));
        told
    }
}

impl Service for Orders {
    fn answer(&self, asked: &Asked) -> Told {
        if !self.knows(asked) {
            return Told::json(401, &json!({ "error": "no such key" }));
        }
        let Some(path) = asked.path.strip_prefix("/v1") else { return Told::json(404, &json!({ "error": "no such path" })) };
        let mut orders = lock(&self.orders);
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let number = parts.get(1).and_then(|text| text.parse::<u64>().ok());
        match (asked.method.as_str(), parts.as_slice()) {
            ("GET", ["me"]) => Told::json(200, &json!({ "user": "shop" })),
            ("GET", ["echo"]) => self.echo(asked),
            ("GET", ["moved"]) => {
                Told { status: 302, headers: vec![("location", format!("https://elsewhere.example/?key={}", self.key))], body: Vec::new() }
            }
            ("GET", ["orders"]) => Told::json(200, &Value::Array(orders.values().cloned().collect())),
            ("POST", ["orders", "search"]) => {
                Told::json(200, &Value::Array(orders.values().filter(|order| order.get("item") == asked.json().get("item")).cloned().collect()))
            }
            ("POST", ["orders"]) => {
                let id = orders.keys().next_back().copied().unwrap_or(0).saturating_add(1);
                let order = json!({ "id": id, "item": asked.json().get("item"), "state": "open" });
                orders.insert(id, order.clone());
                Told::json(201, &order)
            }
            ("GET", ["orders", _]) => number
                .and_then(|id| orders.get(&id))
                .map_or_else(|| Told::json(404, &json!({ "error": "no such order" })), |order| Told::json(200, order)),
            ("DELETE", ["orders", _]) => {
                let removed = number.and_then(|id| orders.remove(&id));
                Told::empty(if removed.is_some() { 204 } else { 404 })
            }
            _ => Told::json(404, &json!({ "error": "no such path" })),
        }
    }
}

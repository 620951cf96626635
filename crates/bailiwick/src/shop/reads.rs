//! The tools that look and change nothing.

use bailiwick_core::Effect;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::{Failure, Hints, Operation};
use super::values::{
    Author, CustomerId, DiscountId, DiscountStatus, Line, OrderId, OrderStatus, RefundId, SupplierId, SupplierStatus, TicketId, TicketStatus,
    Visibility, Whole, given,
};

/// How many of a ticket's comments a list shows: the newest ones.
const COMMENTS_SHOWN: i64 = 5;
const ROWS_USUAL: i64 = 20;

/// How many rows to answer with.
type Limit = Whole<1, 50>;

fn limit(asked: Option<Limit>) -> i64 {
    asked.map_or(ROWS_USUAL, Limit::value)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FindCustomers {
    /// Part of a name, an email address or a city; upper and lower case are the same.
    query: Line<2, 100>,
    /// The most customers to answer with; 20 if left out.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Limit")]
    limit: Option<Limit>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Customers {
    customers: Vec<Customer>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Customer {
    customer: CustomerId,
    name: String,
    email: String,
    street: String,
    postal_code: String,
    city: String,
    country: String,
    discount_percent: i64,
}

impl Operation for FindCustomers {
    type Answer = Customers;

    const NAME: &'static str = "find_customers";
    const TITLE: &'static str = "Find customers";
    const DESCRIPTION: &'static str = "Finds customers by part of their name, email address or city, with their \
        postal address and standing discount. Sorted by customer id.";
    const EFFECT: Effect = Effect::Read;
    const HINTS: Hints = Hints::READ;

    fn perform(&self, shop: &Transaction<'_>) -> Result<Customers, Failure> {
        let mut found = shop.prepare_cached(
            "SELECT id, name, email, street, postal_code, city, country, discount_percent FROM customer
             WHERE name LIKE ?1 ESCAPE '\\' OR email LIKE ?1 ESCAPE '\\' OR city LIKE ?1 ESCAPE '\\'
             ORDER BY id LIMIT ?2",
        )?;
        let customers = found
            .query_map(params![containing(self.query.as_str()), limit(self.limit)], |row| {
                Ok(Customer {
                    customer: row.get(0)?,
                    name: row.get(1)?,
                    email: row.get(2)?,
                    street: row.get(3)?,
                    postal_code: row.get(4)?,
                    city: row.get(5)?,
                    country: row.get(6)?,
                    discount_percent: row.get(7)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        Ok(Customers { customers })
    }
}

/// A LIKE pattern in which the caller's text stands for itself.
fn containing(text: &str) -> String {
    let literal = text.trim().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{literal}%")
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowOrder {
    /// The order, as in `O-2008`.
    order: OrderId,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct OrderInFull {
    #[serde(flatten)]
    order: Order,
    /// What could still be refunded: paid less refunds.
    refundable_cents: i64,
    refunds: Vec<Refund>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Order {
    order: OrderId,
    /// Null once the customer was deleted.
    customer: Option<CustomerId>,
    article: String,
    quantity: i64,
    total_cents: i64,
    paid_cents: i64,
    refunded_cents: i64,
    status: OrderStatus,
    placed_on: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Refund {
    refund: RefundId,
    amount_cents: i64,
    reason: String,
    made_at: String,
}

const ORDER_COLUMNS: &str = "SELECT id, customer, article, quantity, total_cents, paid_cents,
    (SELECT coalesce(sum(amount_cents), 0) FROM refund WHERE refund.purchase = purchase.id), status, placed_on
    FROM purchase";

fn order(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        order: row.get(0)?,
        customer: row.get(1)?,
        article: row.get(2)?,
        quantity: row.get(3)?,
        total_cents: row.get(4)?,
        paid_cents: row.get(5)?,
        refunded_cents: row.get(6)?,
        status: row.get(7)?,
        placed_on: row.get(8)?,
    })
}

impl Operation for ShowOrder {
    type Answer = OrderInFull;

    const NAME: &'static str = "show_order";
    const TITLE: &'static str = "Show an order";
    const DESCRIPTION: &'static str = "Shows one order with its payment, its refunds and what could still be \
        refunded. Amounts are in euro cents.";
    const EFFECT: Effect = Effect::Read;
    const HINTS: Hints = Hints::READ;

    fn perform(&self, shop: &Transaction<'_>) -> Result<OrderInFull, Failure> {
        let order = shop
            .query_row(&format!("{ORDER_COLUMNS} WHERE id = ?1"), [self.order], order)
            .optional()?
            .ok_or_else(|| Failure::refused(format!("there is no order `{}`", self.order)))?;
        let mut refunds = shop.prepare_cached("SELECT id, amount_cents, reason, made_at FROM refund WHERE purchase = ?1 ORDER BY id")?;
        let refunds = refunds
            .query_map([self.order], |row| Ok(Refund { refund: row.get(0)?, amount_cents: row.get(1)?, reason: row.get(2)?, made_at: row.get(3)? }))?
            .collect::<Result<_, _>>()?;
        Ok(OrderInFull { refundable_cents: order.paid_cents - order.refunded_cents, order, refunds })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListOrders {
    /// Only this customer's orders.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "CustomerId")]
    customer: Option<CustomerId>,
    /// Only orders in this state.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "OrderStatus")]
    status: Option<OrderStatus>,
    /// The most orders to answer with; 20 if left out.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Limit")]
    limit: Option<Limit>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Orders {
    orders: Vec<Order>,
}

impl Operation for ListOrders {
    type Answer = Orders;

    const NAME: &'static str = "list_orders";
    const TITLE: &'static str = "List orders";
    const DESCRIPTION: &'static str = "Lists orders, the newest first, if wished only those of one customer or in one \
        state. Amounts are in euro cents.";
    const EFFECT: Effect = Effect::Read;
    const HINTS: Hints = Hints::READ;

    fn perform(&self, shop: &Transaction<'_>) -> Result<Orders, Failure> {
        let mut found = shop.prepare_cached(&format!(
            "{ORDER_COLUMNS} WHERE (?1 IS NULL OR customer = ?1) AND (?2 IS NULL OR status = ?2)
             ORDER BY placed_on DESC, id DESC LIMIT ?3"
        ))?;
        let orders = found.query_map(params![self.customer, self.status, limit(self.limit)], order)?.collect::<Result<_, _>>()?;
        Ok(Orders { orders })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListTickets {
    /// Only tickets in this state.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "TicketStatus")]
    status: Option<TicketStatus>,
    /// Only this customer's tickets.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "CustomerId")]
    customer: Option<CustomerId>,
    /// The most tickets to answer with; 20 if left out.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Limit")]
    limit: Option<Limit>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Tickets {
    tickets: Vec<Ticket>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Ticket {
    ticket: TicketId,
    customer: CustomerId,
    order: Option<OrderId>,
    status: TicketStatus,
    subject: String,
    /// What the customer wrote: data, whatever it says.
    text: String,
    opened_on: String,
    comments_total: i64,
    /// The newest comments, the oldest of them first.
    comments: Vec<Comment>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Comment {
    author: Author,
    visibility: Visibility,
    text: String,
    written_at: String,
}

impl Operation for ListTickets {
    type Answer = Tickets;

    const NAME: &'static str = "list_tickets";
    const TITLE: &'static str = "List support tickets";
    const DESCRIPTION: &'static str = "Lists support tickets, the newest first, each with its text and its newest five \
        comments. Texts are written by customers and are not checked by the shop.";
    const EFFECT: Effect = Effect::Read;
    const HINTS: Hints = Hints::READ;

    fn perform(&self, shop: &Transaction<'_>) -> Result<Tickets, Failure> {
        let mut found = shop.prepare_cached(
            "SELECT id, customer, purchase, status, subject, text, opened_on,
                    (SELECT count(*) FROM comment WHERE comment.ticket = ticket.id)
             FROM ticket WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR customer = ?2)
             ORDER BY opened_on DESC, id DESC LIMIT ?3",
        )?;
        let tickets = found.query_map(params![self.status, self.customer, limit(self.limit)], |row| {
            Ok(Ticket {
                ticket: row.get(0)?,
                customer: row.get(1)?,
                order: row.get(2)?,
                status: row.get(3)?,
                subject: row.get(4)?,
                text: row.get(5)?,
                opened_on: row.get(6)?,
                comments_total: row.get(7)?,
                comments: Vec::new(),
            })
        })?;
        let tickets = tickets
            .map(|ticket| {
                let mut ticket = ticket?;
                ticket.comments = newest_comments(shop, ticket.ticket)?;
                Ok(ticket)
            })
            .collect::<rusqlite::Result<_>>()?;
        Ok(Tickets { tickets })
    }
}

fn newest_comments(shop: &Transaction<'_>, ticket: TicketId) -> rusqlite::Result<Vec<Comment>> {
    shop.prepare_cached(
        "SELECT author, visibility, text, written_at FROM
           (SELECT * FROM comment WHERE ticket = ?1 ORDER BY id DESC LIMIT ?2) ORDER BY id",
    )?
    .query_map(params![ticket, COMMENTS_SHOWN], |row| {
        Ok(Comment { author: row.get(0)?, visibility: row.get(1)?, text: row.get(2)?, written_at: row.get(3)? })
    })?
    .collect()
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListDiscounts {
    /// Only discount requests in this state.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "DiscountStatus")]
    status: Option<DiscountStatus>,
    /// The most requests to answer with; 20 if left out.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Limit")]
    limit: Option<Limit>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Discounts {
    discounts: Vec<Discount>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Discount {
    discount: DiscountId,
    customer: CustomerId,
    percent: i64,
    reason: String,
    requested_by: Author,
    status: DiscountStatus,
    requested_at: String,
    decided_at: Option<String>,
}

impl Operation for ListDiscounts {
    type Answer = Discounts;

    const NAME: &'static str = "list_discounts";
    const TITLE: &'static str = "List discount requests";
    const DESCRIPTION: &'static str = "Lists discount requests, the newest first, with who asked (staff or automation) \
        and what became of them.";
    const EFFECT: Effect = Effect::Read;
    const HINTS: Hints = Hints::READ;

    fn perform(&self, shop: &Transaction<'_>) -> Result<Discounts, Failure> {
        let mut found = shop.prepare_cached(
            "SELECT id, customer, percent, reason, requested_by, status, requested_at, decided_at
             FROM discount_request WHERE ?1 IS NULL OR status = ?1 ORDER BY id DESC LIMIT ?2",
        )?;
        let discounts = found
            .query_map(params![self.status, limit(self.limit)], |row| {
                Ok(Discount {
                    discount: row.get(0)?,
                    customer: row.get(1)?,
                    percent: row.get(2)?,
                    reason: row.get(3)?,
                    requested_by: row.get(4)?,
                    status: row.get(5)?,
                    requested_at: row.get(6)?,
                    decided_at: row.get(7)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        Ok(Discounts { discounts })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListSuppliers {}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Suppliers {
    suppliers: Vec<Supplier>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Supplier {
    supplier: SupplierId,
    name: String,
    account: String,
    status: SupplierStatus,
    /// What the shop owes the supplier now.
    owed_cents: i64,
}

impl Operation for ListSuppliers {
    type Answer = Suppliers;

    const NAME: &'static str = "list_suppliers";
    const TITLE: &'static str = "List suppliers";
    const DESCRIPTION: &'static str = "Lists the suppliers with their account and what the shop owes each of them, in euro cents.";
    const EFFECT: Effect = Effect::Read;
    const HINTS: Hints = Hints::READ;

    fn perform(&self, shop: &Transaction<'_>) -> Result<Suppliers, Failure> {
        let mut found = shop.prepare_cached("SELECT id, name, account, status, owed_cents FROM supplier ORDER BY id")?;
        let suppliers = found
            .query_map([], |row| {
                Ok(Supplier { supplier: row.get(0)?, name: row.get(1)?, account: row.get(2)?, status: row.get(3)?, owed_cents: row.get(4)? })
            })?
            .collect::<Result<_, _>>()?;
        Ok(Suppliers { suppliers })
    }
}

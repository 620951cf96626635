//! The tools that write words others act on, change what is kept, or take it away.

use bailiwick_core::Effect;
use rusqlite::{OptionalExtension as _, Transaction, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::{Failure, Hints, Operation};
use super::values::{
    Author, Country, CustomerId, DiscountId, DiscountStatus, Line, OrderId, OrderStatus, Text, TicketId, TicketStatus, Visibility, Whole,
};

/// The most comments that a ticket holds.
const COMMENTS_MAX: i64 = 200;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CommentTicket {
    /// The ticket, as in `T-3001`.
    ticket: TicketId,
    /// Who may read it: only the shop's people (`internal`), or also the customer, who gets it by email (`customer`).
    visibility: Visibility,
    /// The comment.
    text: Text<1, 2000>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Commented {
    ticket: TicketId,
    visibility: Visibility,
    comments_total: i64,
}

impl Operation for CommentTicket {
    type Answer = Commented;

    const NAME: &'static str = "comment_ticket";
    const TITLE: &'static str = "Comment on a ticket";
    const DESCRIPTION: &'static str = "Adds a comment to a support ticket that is not closed, marked as written by \
        automation. People and automata act on what it says; with visibility `customer` it also leaves the shop.";
    const EFFECT: Effect = Effect::Influence;
    const HINTS: Hints = Hints { destructive: false, idempotent: false, open_world: true };

    fn target(&self) -> Option<String> {
        Some(self.ticket.to_string())
    }

    fn perform(&self, shop: &Transaction<'_>) -> Result<Commented, Failure> {
        let ticket = self.ticket;
        let status: TicketStatus = shop
            .query_row("SELECT status FROM ticket WHERE id = ?1", [ticket], |row| row.get(0))
            .optional()?
            .ok_or_else(|| Failure::refused(format!("there is no ticket `{ticket}`")))?;
        if status == TicketStatus::Closed {
            return Err(Failure::refused(format!("ticket `{ticket}` is closed: it takes no more comments")));
        }
        let comments: i64 = shop.query_row("SELECT count(*) FROM comment WHERE ticket = ?1", [ticket], |row| row.get(0))?;
        if comments >= COMMENTS_MAX {
            return Err(Failure::refused(format!("ticket `{ticket}` has {COMMENTS_MAX} comments: it takes no more")));
        }
        shop.execute(
            "INSERT INTO comment (ticket, author, visibility, text) VALUES (?1, ?2, ?3, ?4)",
            params![ticket, Author::Automation, self.visibility, self.text],
        )?;
        Ok(Commented { ticket, visibility: self.visibility, comments_total: comments + 1 })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RecommendDiscount {
    /// The customer who should get it, as in `C-1006`.
    customer: CustomerId,
    /// The standing discount in per cent, in place of the one the customer has.
    percent: Whole<1, 50>,
    /// Why; the person who decides reads this.
    reason: Text<10, 500>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Recommended {
    discount: DiscountId,
    customer: CustomerId,
    percent: i64,
    status: DiscountStatus,
}

impl Operation for RecommendDiscount {
    type Answer = Recommended;

    const NAME: &'static str = "recommend_discount";
    const TITLE: &'static str = "Recommend a discount";
    const DESCRIPTION: &'static str = "Puts a request for a standing discount before the person who decides on \
        discounts, marked as made by automation. A customer has at most one open request. Nothing is granted by it.";
    const EFFECT: Effect = Effect::Influence;
    const HINTS: Hints = Hints { destructive: false, idempotent: false, open_world: false };

    fn target(&self) -> Option<String> {
        Some(self.customer.to_string())
    }

    fn perform(&self, shop: &Transaction<'_>) -> Result<Recommended, Failure> {
        let customer = self.customer;
        let (current, open): (i64, Option<DiscountId>) = shop
            .query_row(
                "SELECT discount_percent, (SELECT id FROM discount_request r WHERE r.customer = c.id AND r.status = ?2)
                 FROM customer c WHERE id = ?1",
                params![customer, DiscountStatus::Requested],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?
            .ok_or_else(|| Failure::refused(format!("there is no customer `{customer}`")))?;
        if let Some(open) = open {
            return Err(Failure::refused(format!("customer `{customer}` has an open discount request: `{open}`")));
        }
        let percent = self.percent.value();
        if percent <= current {
            return Err(Failure::refused(format!("customer `{customer}` already has a discount of {current} per cent")));
        }
        shop.execute(
            "INSERT INTO discount_request (customer, percent, reason, requested_by, status) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![customer, percent, self.reason, Author::Automation, DiscountStatus::Requested],
        )?;
        let discount = DiscountId::of_row(shop.last_insert_rowid());
        Ok(Recommended { discount, customer, percent, status: DiscountStatus::Requested })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateAddress {
    /// The customer who moves, as in `C-1006`.
    customer: CustomerId,
    /// Street and number.
    street: Line<2, 120>,
    /// Postal code as written in the country.
    postal_code: Line<2, 12>,
    /// Town or city.
    city: Line<2, 80>,
    /// Country as two capital letters.
    country: Country,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AddressUpdated {
    customer: CustomerId,
    /// Orders not yet shipped, which now go to the new address.
    orders_redirected: i64,
}

impl Operation for UpdateAddress {
    type Answer = AddressUpdated;

    const NAME: &'static str = "update_address";
    const TITLE: &'static str = "Update a customer's address";
    const DESCRIPTION: &'static str = "Replaces a customer's postal address. Orders that have not been shipped yet go to the new one.";
    const EFFECT: Effect = Effect::Write;
    const HINTS: Hints = Hints { destructive: true, idempotent: true, open_world: false };

    fn target(&self) -> Option<String> {
        Some(self.customer.to_string())
    }

    fn perform(&self, shop: &Transaction<'_>) -> Result<AddressUpdated, Failure> {
        let customer = self.customer;
        let changed = shop.execute(
            "UPDATE customer SET street = ?2, postal_code = ?3, city = ?4, country = ?5 WHERE id = ?1",
            params![customer, self.street, self.postal_code, self.city, self.country],
        )?;
        if changed == 0 {
            return Err(Failure::refused(format!("there is no customer `{customer}`")));
        }
        let orders_redirected = shop.query_row(
            "SELECT count(*) FROM purchase WHERE customer = ?1 AND status IN (?2, ?3)",
            params![customer, OrderStatus::Placed, OrderStatus::Packed],
            |row| row.get(0),
        )?;
        Ok(AddressUpdated { customer, orders_redirected })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetOrderStatus {
    /// The order, as in `O-2004`.
    order: OrderId,
    /// Its next state.
    status: OrderStatus,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct OrderStatusSet {
    order: OrderId,
    before: OrderStatus,
    status: OrderStatus,
}

impl Operation for SetOrderStatus {
    type Answer = OrderStatusSet;

    const NAME: &'static str = "set_order_status";
    const TITLE: &'static str = "Set an order's status";
    const DESCRIPTION: &'static str = "Moves an order one step on: placed to packed to shipped to delivered. A placed \
        or packed order may be cancelled instead. No step goes back.";
    const EFFECT: Effect = Effect::Write;
    const HINTS: Hints = Hints { destructive: true, idempotent: true, open_world: false };

    fn target(&self) -> Option<String> {
        Some(self.order.to_string())
    }

    fn perform(&self, shop: &Transaction<'_>) -> Result<OrderStatusSet, Failure> {
        let order = self.order;
        let before: OrderStatus = shop
            .query_row("SELECT status FROM purchase WHERE id = ?1", [order], |row| row.get(0))
            .optional()?
            .ok_or_else(|| Failure::refused(format!("there is no order `{order}`")))?;
        if !follows(before, self.status) {
            let (before, after) = (before.as_str(), self.status.as_str());
            return Err(Failure::refused(format!("order `{order}` is {before}: it cannot become {after}")));
        }
        shop.execute("UPDATE purchase SET status = ?2 WHERE id = ?1", params![order, self.status])?;
        Ok(OrderStatusSet { order, before, status: self.status })
    }
}

fn follows(before: OrderStatus, after: OrderStatus) -> bool {
    use OrderStatus::{Cancelled, Delivered, Packed, Placed, Shipped};
    matches!((before, after), (Placed, Packed) | (Packed, Shipped) | (Shipped, Delivered) | (Placed | Packed, Cancelled))
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteCustomer {
    /// The customer, as in `C-1008`.
    customer: CustomerId,
    /// The customer's name exactly as the shop has it, to guard against a wrong id.
    name: Line<2, 100>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct CustomerDeleted {
    customer: CustomerId,
    tickets_deleted: i64,
    discounts_deleted: i64,
    /// Orders are kept for the books, without the customer.
    orders_kept: i64,
}

impl Operation for DeleteCustomer {
    type Answer = CustomerDeleted;

    const NAME: &'static str = "delete_customer";
    const TITLE: &'static str = "Delete a customer";
    const DESCRIPTION: &'static str = "Deletes a customer for good, with tickets and discount requests; orders stay \
        without a name. Refused while an order is under way or a ticket is not closed.";
    const EFFECT: Effect = Effect::Delete;
    const HINTS: Hints = Hints { destructive: true, idempotent: true, open_world: false };

    fn target(&self) -> Option<String> {
        Some(self.customer.to_string())
    }

    fn perform(&self, shop: &Transaction<'_>) -> Result<CustomerDeleted, Failure> {
        let customer = self.customer;
        let name: String = shop
            .query_row("SELECT name FROM customer WHERE id = ?1", [customer], |row| row.get(0))
            .optional()?
            .ok_or_else(|| Failure::refused(format!("there is no customer `{customer}`")))?;
        if name != self.name.as_str() {
            return Err(Failure::refused(format!("customer `{customer}` has another name than the one given")));
        }
        let count = |sql: &str| shop.query_row(sql, [customer], |row| row.get::<_, i64>(0));
        let under_way = count("SELECT count(*) FROM purchase WHERE customer = ?1 AND status NOT IN ('delivered', 'cancelled')")?;
        let unanswered = count("SELECT count(*) FROM ticket WHERE customer = ?1 AND status <> 'closed'")?;
        if under_way + unanswered > 0 {
            return Err(Failure::refused(format!(
                "customer `{customer}` still has {under_way} orders under way and {unanswered} tickets not closed"
            )));
        }
        let tickets_deleted = count("SELECT count(*) FROM ticket WHERE customer = ?1")?;
        let discounts_deleted = count("SELECT count(*) FROM discount_request WHERE customer = ?1")?;
        let orders_kept = count("SELECT count(*) FROM purchase WHERE customer = ?1")?;
        shop.execute("DELETE FROM customer WHERE id = ?1", [customer])?;
        Ok(CustomerDeleted { customer, tickets_deleted, discounts_deleted, orders_kept })
    }
}

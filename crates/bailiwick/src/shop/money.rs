//! The tools that move money or decide about it. Amounts are whole euro cents; none is ever rounded.

use bailiwick_core::Effect;
use rusqlite::{OptionalExtension as _, Transaction, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::{Failure, Hints, Operation};
use super::values::{CustomerId, DiscountId, DiscountStatus, Line, OrderId, PayoutId, RefundId, SupplierId, SupplierStatus, Text, Whole};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RefundOrder {
    /// The order, as in `O-2008`.
    order: OrderId,
    /// How much, in euro cents; at most what was paid less earlier refunds.
    amount_cents: Whole<1, 1_000_000>,
    /// Why; kept with the refund.
    reason: Text<3, 500>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Refunded {
    refund: RefundId,
    order: OrderId,
    amount_cents: i64,
    /// What could still be refunded after this.
    refundable_cents: i64,
}

impl Operation for RefundOrder {
    type Answer = Refunded;

    const NAME: &'static str = "refund_order";
    const TITLE: &'static str = "Refund an order";
    const DESCRIPTION: &'static str = "Pays money back to the customer for one order, in euro cents. Refused beyond \
        what was paid less earlier refunds. Cannot be undone; a second identical call pays again.";
    const EFFECT: Effect = Effect::Transfer;
    const HINTS: Hints = Hints { destructive: true, idempotent: false, open_world: true };

    fn target(&self) -> Option<String> {
        Some(self.order.to_string())
    }

    fn perform(&self, shop: &Transaction<'_>) -> Result<Refunded, Failure> {
        let order = self.order;
        let (customer, refundable): (Option<CustomerId>, i64) = shop
            .query_row(
                "SELECT customer, paid_cents - (SELECT coalesce(sum(amount_cents), 0) FROM refund WHERE purchase = ?1)
                 FROM purchase WHERE id = ?1",
                [order],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?
            .ok_or_else(|| Failure::refused(format!("there is no order `{order}`")))?;
        if customer.is_none() {
            return Err(Failure::refused(format!("the customer of order `{order}` was deleted: nobody to pay")));
        }
        let amount_cents = self.amount_cents.value();
        if amount_cents > refundable {
            return Err(Failure::refused(format!(
                "{amount_cents} cents are more than the {refundable} cents that can still be refunded for `{order}`"
            )));
        }
        shop.execute("INSERT INTO refund (purchase, amount_cents, reason) VALUES (?1, ?2, ?3)", params![order, amount_cents, self.reason])?;
        let refund = RefundId::of_row(shop.last_insert_rowid());
        Ok(Refunded { refund, order, amount_cents, refundable_cents: refundable - amount_cents })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PaySupplier {
    /// The supplier, as in `S-5001`.
    supplier: SupplierId,
    /// The supplier's invoice number; each is paid once.
    invoice: Line<3, 40>,
    /// How much, in euro cents; at most what the shop owes the supplier.
    amount_cents: Whole<1, 5_000_000>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SupplierPaid {
    payout: PayoutId,
    supplier: SupplierId,
    /// The account that the money went to.
    account: String,
    amount_cents: i64,
    /// What the shop still owes the supplier.
    owed_cents: i64,
}

impl Operation for PaySupplier {
    type Answer = SupplierPaid;

    const NAME: &'static str = "pay_supplier";
    const TITLE: &'static str = "Pay a supplier";
    const DESCRIPTION: &'static str = "Pays a supplier's invoice to the account on file, in euro cents. Refused for a \
        blocked supplier, an invoice that was paid before, and more than the shop owes. Cannot be undone.";
    const EFFECT: Effect = Effect::Transfer;
    const HINTS: Hints = Hints { destructive: true, idempotent: true, open_world: true };

    fn target(&self) -> Option<String> {
        Some(self.supplier.to_string())
    }

    fn perform(&self, shop: &Transaction<'_>) -> Result<SupplierPaid, Failure> {
        let supplier = self.supplier;
        let (account, status, owed): (String, SupplierStatus, i64) = shop
            .query_row("SELECT account, status, owed_cents FROM supplier WHERE id = ?1", [supplier], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?
            .ok_or_else(|| Failure::refused(format!("there is no supplier `{supplier}`")))?;
        if status == SupplierStatus::Blocked {
            return Err(Failure::refused(format!("supplier `{supplier}` is blocked: it is not paid")));
        }
        let invoice = self.invoice.as_str().trim();
        let paid: bool = shop.query_row(
            "SELECT EXISTS (SELECT 1 FROM payout WHERE supplier = ?1 AND invoice = ?2 COLLATE NOCASE)",
            params![supplier, invoice],
            |row| row.get(0),
        )?;
        if paid {
            return Err(Failure::refused(format!("invoice `{invoice}` of supplier `{supplier}` was paid before")));
        }
        let amount_cents = self.amount_cents.value();
        if amount_cents > owed {
            return Err(Failure::refused(format!("{amount_cents} cents are more than the {owed} cents that the shop owes supplier `{supplier}`")));
        }
        shop.execute("INSERT INTO payout (supplier, invoice, amount_cents) VALUES (?1, ?2, ?3)", params![supplier, invoice, amount_cents])?;
        let payout = PayoutId::of_row(shop.last_insert_rowid());
        shop.execute("UPDATE supplier SET owed_cents = owed_cents - ?2 WHERE id = ?1", params![supplier, amount_cents])?;
        Ok(SupplierPaid { payout, supplier, account, amount_cents, owed_cents: owed - amount_cents })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApproveDiscount {
    /// The discount request, as in `D-7002`.
    discount: DiscountId,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct DiscountApproved {
    discount: DiscountId,
    customer: CustomerId,
    /// The customer's standing discount from now on.
    percent: i64,
    status: DiscountStatus,
}

impl Operation for ApproveDiscount {
    type Answer = DiscountApproved;

    const NAME: &'static str = "approve_discount";
    const TITLE: &'static str = "Approve a discount request";
    const DESCRIPTION: &'static str = "Grants an open discount request: the customer has the discount on every order \
        from now on, in place of an earlier one.";
    const EFFECT: Effect = Effect::Approve;
    const HINTS: Hints = Hints { destructive: true, idempotent: true, open_world: false };

    fn target(&self) -> Option<String> {
        Some(self.discount.to_string())
    }

    fn perform(&self, shop: &Transaction<'_>) -> Result<DiscountApproved, Failure> {
        let discount = self.discount;
        let (customer, percent, status): (CustomerId, i64, DiscountStatus) = shop
            .query_row("SELECT customer, percent, status FROM discount_request WHERE id = ?1", [discount], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?
            .ok_or_else(|| Failure::refused(format!("there is no discount request `{discount}`")))?;
        if status != DiscountStatus::Requested {
            let status = status.as_str();
            return Err(Failure::refused(format!("discount request `{discount}` was decided before: {status}")));
        }
        shop.execute(
            "UPDATE discount_request SET status = ?2, decided_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now') WHERE id = ?1",
            params![discount, DiscountStatus::Approved],
        )?;
        shop.execute("UPDATE customer SET discount_percent = ?2 WHERE id = ?1", params![customer, percent])?;
        Ok(DiscountApproved { discount, customer, percent, status: DiscountStatus::Approved })
    }
}

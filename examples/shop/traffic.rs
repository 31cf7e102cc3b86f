//! People who use the shop: inserts, updates, deletes and key changes, until told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::memory::Faults;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::Failure;
use crate::support::world::connect;

/// People at the same time, each with a connection. They share no product and no customer, so
/// that they never wait for each other.
const WRITERS: usize = 3;
/// What a person does between two clicks.
const THINK: Duration = Duration::from_millis(12);
/// Customers and products of `schema.sql` that the writers use, and those only the import does.
const CUSTOMERS: usize = 1000;
const PRODUCTS: usize = 200;
/// Orders a writer remembers; older ones are left alone.
const ORDERS_MAX: usize = 200;

/// One transaction of 100,000 rows: the orders of an older shop.
pub(crate) const IMPORT: &str = "
    BEGIN;
    INSERT INTO orders (id, customer_id, status, total, placed_at)
    SELECT md5('old order ' || n)::uuid, md5('customer ' || (1 + n % 1000))::uuid, 'delivered', 19.90,
           timestamptz '2020-01-01 00:00+00' + n * interval '1 hour'
    FROM generate_series(1, 25000) AS n;
    INSERT INTO order_items (order_id, line, sku, quantity, unit_price)
    SELECT md5('old order ' || n)::uuid, line, format('P-%s', 1200 + (n + line) % 40), line, 9.95
    FROM generate_series(1, 25000) AS n, generate_series(1, 3) AS line;
    COMMIT";
/// Its rows.
pub(crate) const IMPORT_ROWS: u64 = 100_000;

/// Writers under way.
#[derive(Debug)]
pub(crate) struct Traffic {
    name: String,
    stop: Arc<AtomicBool>,
    rows: Arc<AtomicU64>,
    tasks: JoinSet<Result<(), tokio_postgres::Error>>,
}

impl Traffic {
    /// Starts them on database `name`.
    pub(crate) fn start(name: &str) -> Self {
        let (stop, rows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut traffic = Self { name: name.to_owned(), stop, rows, tasks: JoinSet::new() };
        for number in 0..WRITERS {
            let (name, stop, rows) =
                (name.to_owned(), Arc::clone(&traffic.stop), Arc::clone(&traffic.rows));
            traffic.spawn(async move {
                let mut writer = Writer::new(&name, number).await;
                while !stop.load(Ordering::Relaxed) {
                    let changed = writer.act().await?;
                    rows.fetch_add(changed, Ordering::Relaxed);
                    tokio::time::sleep(THINK).await;
                }
                Ok(())
            });
        }
        traffic
    }

    /// Begins the large transaction beside them.
    pub(crate) fn import(&mut self) {
        let (name, rows) = (self.name.clone(), Arc::clone(&self.rows));
        self.spawn(async move {
            connect(&name).await.batch_execute(IMPORT).await?;
            rows.fetch_add(IMPORT_ROWS, Ordering::Relaxed);
            Ok(())
        });
    }

    fn spawn(
        &mut self,
        task: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
    ) {
        self.tasks.spawn(task);
    }

    /// Rows changed by what is committed so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Lets everybody finish, and returns the rows changed.
    pub(crate) async fn finish(mut self) -> Result<u64, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done??;
        }
        Ok(self.rows())
    }
}

struct Writer {
    client: Client,
    number: usize,
    dice: Faults,
    /// Orders of its own that still exist.
    orders: Vec<String>,
    /// Customers of its own, without orders.
    visitors: Vec<String>,
    /// The present key of each product, changed or not.
    skus: Vec<String>,
    serial: usize,
}

impl Writer {
    async fn new(name: &str, number: usize) -> Self {
        let client = connect(name).await;
        let skus = (0..PRODUCTS).filter(|n| n % WRITERS == number);
        Self {
            client,
            number,
            dice: Faults::seeded(7 + u64::try_from(number).unwrap_or(0), 0.0),
            orders: Vec::new(),
            visitors: Vec::new(),
            skus: skus.map(|n| format!("P-{}", 1000 + n)).collect(),
            serial: 0,
        }
    }

    /// One transaction; the rows it changed.
    async fn act(&mut self) -> Result<u64, tokio_postgres::Error> {
        match self.dice.below(100) {
            0..35 => self.place_order().await,
            35..60 => self.advance_order().await,
            60..70 => self.cancel_order().await,
            70..80 => self.edit_profile().await,
            80..86 => self.sign_up().await,
            86..89 => self.leave().await,
            89..94 => self.reprice().await,
            94..96 => self.rename_product().await,
            96..98 => self.renumber_lines().await,
            _ => self.rewrite_description().await,
        }
    }

    /// The number of a customer that is this writer's.
    fn customer(&self) -> String {
        let n = self.dice.below(CUSTOMERS / WRITERS) * WRITERS + self.number;
        format!("customer {}", n + 1)
    }

    fn sku(&self) -> String {
        self.skus.get(self.dice.below(self.skus.len())).cloned().unwrap_or_default()
    }

    /// An order with its lines; the stock goes down, the description is left alone.
    async fn place_order(&mut self) -> Result<u64, tokio_postgres::Error> {
        let (customer, count) = (self.customer(), self.dice.below(4));
        let transaction = self.client.transaction().await?;
        let order = "INSERT INTO orders (id, customer_id, shipping, placed_at)
            VALUES (gen_random_uuid(), md5($1)::uuid, '{\"street\": \"2 Low Street\"}', clock_timestamp())
            RETURNING id::text";
        let id: String = transaction.query_one(order, &[&customer]).await?.get(0);
        let mut changed = 1;
        for line in 0..=i16::try_from(count).unwrap_or(0) {
            let sku = self.skus.get(self.dice.below(self.skus.len())).cloned().unwrap_or_default();
            let item = "INSERT INTO order_items (order_id, line, sku, quantity, unit_price, discount)
                SELECT $1::text::uuid, $2::smallint, sku, 1, price, round((random() / 3)::numeric, 3) FROM products WHERE sku = $3";
            changed += transaction.execute(item, &[&id, &line, &sku]).await?;
            let stock = "UPDATE products SET stock = stock - 1, updated_at = clock_timestamp() WHERE sku = $1";
            changed += transaction.execute(stock, &[&sku]).await?;
        }
        transaction.commit().await?;
        self.orders.push(id);
        if self.orders.len() > ORDERS_MAX {
            self.orders.remove(0);
        }
        Ok(changed)
    }

    async fn advance_order(&mut self) -> Result<u64, tokio_postgres::Error> {
        let Some(id) = self.orders.get(self.dice.below(self.orders.len())) else { return Ok(0) };
        let update = "UPDATE orders SET updated_at = clock_timestamp(), total = total + 1.25,
            status = CASE status WHEN 'new' THEN 'paid'::order_status WHEN 'paid' THEN 'shipped' ELSE 'delivered' END
            WHERE id = $1::text::uuid";
        self.client.execute(update, &[id]).await
    }

    /// Its lines go with it.
    async fn cancel_order(&mut self) -> Result<u64, tokio_postgres::Error> {
        if self.orders.is_empty() {
            return Ok(0);
        }
        let id = self.orders.swap_remove(self.dice.below(self.orders.len()));
        let lines = "WITH gone AS (DELETE FROM orders WHERE id = $1::text::uuid)
            SELECT count(*) FROM order_items WHERE order_id = $1::text::uuid";
        let lines: i64 = self.client.query_one(lines, &[&id]).await?.get(0);
        Ok(1 + lines.unsigned_abs())
    }

    async fn edit_profile(&mut self) -> Result<u64, tokio_postgres::Error> {
        let customer = self.customer();
        let update = "UPDATE customers SET updated_at = clock_timestamp(), balance = balance - 3.75,
            profile = profile || jsonb_build_object('visits', (profile->>'visits')::int + 1),
            interests = CASE WHEN cardinality(interests) > 5 THEN '{}' ELSE interests || ARRAY['news, \\ \"quoted\"'] END
            WHERE id = md5($1)::uuid";
        self.client.execute(update, &[&customer]).await
    }

    async fn sign_up(&mut self) -> Result<u64, tokio_postgres::Error> {
        self.serial += 1;
        let email = format!("visitor{}.{}@example.com", self.number, self.serial);
        let insert = "INSERT INTO customers (id, email, name, created_at)
            VALUES (gen_random_uuid(), $1, 'Visitor', clock_timestamp()) RETURNING id::text";
        self.visitors.push(self.client.query_one(insert, &[&email]).await?.get(0));
        Ok(1)
    }

    async fn leave(&mut self) -> Result<u64, tokio_postgres::Error> {
        let Some(id) = self.visitors.pop() else { return Ok(0) };
        self.client.execute("DELETE FROM customers WHERE id = $1::text::uuid", &[&id]).await
    }

    async fn reprice(&mut self) -> Result<u64, tokio_postgres::Error> {
        let sku = self.sku();
        let update =
            "UPDATE products SET price = round(price * 1.01, 2), updated_at = clock_timestamp(),
            attributes = coalesce(attributes, '{}') || '{\"sale\": null}' WHERE sku = $1";
        self.client.execute(update, &[&sku]).await
    }

    /// A key change. The lines that name the product follow by cascade.
    async fn rename_product(&mut self) -> Result<u64, tokio_postgres::Error> {
        self.serial += 1;
        let place = self.dice.below(self.skus.len());
        let Some(sku) = self.skus.get_mut(place) else { return Ok(0) };
        let new = format!("P-{}-{}", self.number, self.serial);
        let update = "WITH renamed AS (UPDATE products SET sku = $2 WHERE sku = $1)
            SELECT count(*) FROM order_items WHERE sku = $1";
        let lines: i64 = self.client.query_one(update, &[&*sku, &new]).await?.get(0);
        *sku = new;
        Ok(1 + lines.unsigned_abs())
    }

    /// A change of one part of a composite key.
    async fn renumber_lines(&mut self) -> Result<u64, tokio_postgres::Error> {
        let Some(id) = self.orders.get(self.dice.below(self.orders.len())) else { return Ok(0) };
        let update = "UPDATE order_items SET line = line + 100 WHERE order_id = $1::text::uuid AND line < 100";
        self.client.execute(update, &[id]).await
    }

    async fn rewrite_description(&mut self) -> Result<u64, tokio_postgres::Error> {
        let sku = self.sku();
        let update = "UPDATE products SET description = prose(3000), updated_at = clock_timestamp() WHERE sku = $1";
        self.client.execute(update, &[&sku]).await
    }
}

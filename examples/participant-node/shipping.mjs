// The shop's shipping, written without minuet: plain Node.js, no packages. docs/participants.md is the contract.
//
//   POST /shipping/create     {"orderId", "customerId"?}   200 OrderShipped, or 409 AddressRefused
//   POST /shipping/cancel     {"orderId"}                  200 ShipmentCancelled; it is never refused
//   GET  /shipping/shipments  ?orderId=&limit=&after=      200, a page of what is in the books
//
// What has to hold, whatever is asked however often, and wherever this process is killed: each key is done once, its
// answer stays the same, and what was cancelled is not shipped any more. So nothing is said before it is on the disk:
// one line of the journal holds the answer and the shipment together, and both count, or neither.

import { createHash } from "node:crypto";
import { closeSync, fdatasync, fsyncSync, ftruncateSync, mkdirSync, openSync, readFileSync, write } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";

const BODY_BYTES_MAX = 1024 * 1024;
const CARRIER_S_MAX = 10;
const NOT_KEPT = "this participant cannot keep anything any more, and ends";

// -- what is kept -----------------------------------------------------------------------------------------------------

/** A file of JSON lines that only grows. Who appends at the same time shares one write and one wait for the disk. */
class Journal {
  #file;
  #waiting = [];
  #isWriting = false;

  /** Opens the journal, and hands what is in it to `replay`, line by line. One process at a time may have it open. */
  constructor(folder, replay) {
    mkdirSync(folder, { recursive: true });
    const path = join(folder, "shipping.jsonl");
    this.#file = openSync(path, "a+");
    const content = readFileSync(path);
    const end = content.lastIndexOf("\n") + 1;
    // What stands behind the last line was being written when we were killed, and nobody was told of it.
    if (end < content.length) ftruncateSync(this.#file, end);
    for (const line of content.subarray(0, end).toString().split("\n")) if (line) replay(JSON.parse(line));
    fsyncSync(this.#file);
    const directory = openSync(folder, "r");
    fsyncSync(directory); // the file's name, too
    closeSync(directory);
  }

  /** Resolves when the record is on the disk. */
  append(record) {
    return new Promise((resolve) => {
      this.#waiting.push({ line: JSON.stringify(record) + "\n", resolve });
      if (!this.#isWriting) this.#writeAll();
    });
  }

  async #writeAll() {
    this.#isWriting = true;
    try {
      while (this.#waiting.length) {
        const batch = this.#waiting.splice(0);
        let bytes = Buffer.from(batch.map((one) => one.line).join(""));
        while (bytes.length) bytes = bytes.subarray((await promisify(write)(this.#file, bytes)).bytesWritten);
        await promisify(fdatasync)(this.#file);
        for (const one of batch) one.resolve();
      }
    } catch (error) {
      // What is on the disk now nobody knows. The next start reads it.
      console.error(`${NOT_KEPT}: ${error.message}`);
      process.exit(1);
    }
    this.#isWriting = false;
  }
}

/** All that this service knows. It changes only by records that are on the disk already. */
class Books {
  answers = new Map(); // by Idempotency-Key: what was asked, and what was answered
  shipments = new Map(); // by order: {orderId, trackingNumber, status}
  refused = new Map(); // by order: the carrier's reason
  begun = new Set(); // orders of which the carrier may have a parcel, whatever we know

  learn({ key, asked, answer, begun, shipment, refusal }) {
    if (key && answer) this.answers.set(key, { asked, answer });
    if (begun) this.begun.add(begun);
    if (shipment) this.shipments.set(shipment.orderId, shipment);
    if (refusal) this.refused.set(refusal.orderId, refusal.reason);
  }
}

// -- answers ----------------------------------------------------------------------------------------------------------

const event = (eventType, content) => ({
  status: 200,
  body: { eventType, ...content, timestamp: new Date().toISOString() },
});

const refusal = (name, content, detail) => ({
  status: 409,
  body: { type: `urn:minuet:refusal:${name}`, title: name, status: 409, detail, ...content },
});

/** No answer, but why there is none: nothing of it is kept, and it may be asked again. */
class Problem extends Error {
  constructor(status, title, detail, headers = {}) {
    super(detail);
    this.reply = { status, headers, body: { type: "about:blank", title, status, detail } };
  }
}

const notYet = (detail) => new Problem(503, "No answer yet", detail, { "Retry-After": "1" });

// -- the work ---------------------------------------------------------------------------------------------------------

class Shipping {
  #inTurn = new Map();

  constructor(folder, carrier) {
    this.carrier = carrier;
    this.books = new Books();
    this.journal = new Journal(folder, (record) => this.books.learn(record));
  }

  /** The one answer of this key: the recorded one, or else that of the work, recorded before anybody hears it. */
  once(key, asked, orderId, work) {
    return this.#alone(orderId, async () => {
      const known = this.books.answers.get(key);
      if (known) {
        if (known.asked === asked) return known.answer;
        throw new Problem(422, "Asked before with other content", `${key} was used for another request.`);
      }
      const { answer, ...changes } = await work();
      await this.#keep({ key, asked, answer, ...changes });
      return answer;
    });
  }

  /** One after the other, of all that concerns one order. */
  async #alone(orderId, work) {
    const before = this.#inTurn.get(orderId);
    const mine = (before ?? Promise.resolve()).then(work, work);
    this.#inTurn.set(orderId, mine);
    try {
      return await mine;
    } finally {
      if (this.#inTurn.get(orderId) === mine) this.#inTurn.delete(orderId);
    }
  }

  async #keep(record) {
    await this.journal.append(record);
    this.books.learn(record);
  }

  async create({ orderId, customerId = "" }, { isTooLate, mayRefuse }) {
    const { shipments, refused, begun } = this.books;
    // Another key may ask for the same order; it is still one parcel.
    const shipment = shipments.get(orderId);
    if (shipment?.status === "SHIPPED") return { answer: shipped(shipment) };
    if (shipment) return { answer: addressRefused(orderId, "the shipment was cancelled") };
    if (refused.has(orderId)) return { answer: addressRefused(orderId, refused.get(orderId)) };
    // Too late only if it was not begun: otherwise a parcel may be on its way, and that must not be denied.
    if (isTooLate && mayRefuse && !begun.has(orderId)) {
      const content = { service: "shipping", command: "CreateShipment", reason: "deadline passed" };
      return { answer: refusal("StepRefused", content, "The deadline passed before the parcel was handed over.") };
    }
    await this.#keep({ begun: orderId });
    // The carrier honours keys as well, so asking it again after a crash sends no second parcel.
    const { trackingNumber, reason } = await this.#askCarrier("/parcels", { orderId, customerId }, `parcel ${orderId}`);
    if (reason) return { answer: addressRefused(orderId, reason), refusal: { orderId, reason } };
    const made = { orderId, trackingNumber, status: "SHIPPED" };
    return { answer: shipped(made), shipment: made };
  }

  /** Also of what was never shipped: then it never will be. */
  async cancel({ orderId }) {
    await this.#askCarrier("/cancellations", { orderId });
    const trackingNumber = this.books.shipments.get(orderId)?.trackingNumber ?? null;
    return {
      answer: event("ShipmentCancelled", { orderId }),
      shipment: { orderId, trackingNumber, status: "CANCELLED" },
    };
  }

  async #askCarrier(path, body, key) {
    let response, content;
    try {
      response = await fetch(this.carrier + path, {
        method: "POST",
        headers: { "Content-Type": "application/json", ...(key && { "Idempotency-Key": key }) },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(CARRIER_S_MAX * 1000),
      });
      content = await response.json();
    } catch (error) {
      throw notYet(`The carrier did not answer: ${error.cause?.code ?? error.name}.`);
    }
    if (response.ok) return content;
    if (content.type === "/problems/address-refused") return { reason: content.detail };
    throw notYet(`The carrier answered ${response.status}.`);
  }

  page({ orderId, limit, after = "" }) {
    const size = Math.min(Number(limit) || 50, 500);
    const found = [...this.books.shipments.values()]
      .filter((one) => one.orderId > after && (!orderId || one.orderId === orderId))
      .sort((one, other) => (one.orderId < other.orderId ? -1 : 1));
    const shipments = found.slice(0, size);
    return { status: 200, body: { shipments, after: found.length > size ? shipments.at(-1).orderId : null } };
  }
}

const shipped = ({ orderId, trackingNumber }) => event("OrderShipped", { orderId, trackingNumber });
const addressRefused = (orderId, reason) =>
  refusal("AddressRefused", { orderId, reason }, `No parcel for order ${orderId}: ${reason}.`);

// -- HTTP -------------------------------------------------------------------------------------------------------------

const COMMANDS = { "/shipping/create": "create", "/shipping/cancel": "cancel" };

async function reply(shipping, request) {
  const url = new URL(request.url, "http://here");
  if (url.pathname === "/shipping/shipments" && request.method === "GET") {
    return shipping.page(Object.fromEntries(url.searchParams));
  }
  const command = COMMANDS[url.pathname];
  if (!command) throw new Problem(404, "No such route", `There is no ${url.pathname} here.`);
  if (request.method !== "POST") throw new Problem(405, "Method not allowed", "This takes POST.", { Allow: "POST" });
  const key = request.headers["idempotency-key"];
  if (!key) throw new Problem(400, "A header is missing", "Idempotency-Key has to say which command this is.");
  const content = await contentOf(request);
  const asked = createHash("sha256").update(JSON.stringify([command, content.orderId, content.customerId ?? ""]));
  const expires = Date.parse(request.headers["ce-expirytime"] ?? "");
  const circumstances = { isTooLate: expires < Date.now(), mayRefuse: request.headers["ce-mayrefuse"] !== "false" };
  return shipping.once(key, asked.digest("hex"), content.orderId, () => shipping[command](content, circumstances));
}

async function contentOf(request) {
  if (!/^application\/json\s*(;|$)/i.test(request.headers["content-type"] ?? "")) {
    throw new Problem(415, "Unsupported media type", 'The body must be sent as "Content-Type: application/json".');
  }
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > BODY_BYTES_MAX) throw new Problem(413, "The body is too large", `It may have ${BODY_BYTES_MAX} bytes.`);
    parts.push(part);
  }
  let content;
  try {
    content = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(parts)));
  } catch {
    throw new Problem(422, "The request does not fit", "body: it is not JSON in UTF-8");
  }
  if (typeof content?.orderId !== "string" || !content.orderId) {
    throw new Problem(422, "The request does not fit", "orderId: a text is required");
  }
  return content;
}

function serve(shipping) {
  const server = createServer(async (request, response) => {
    let found;
    try {
      found = await reply(shipping, request);
    } catch (error) {
      if (!(error instanceof Problem)) console.error(error);
      found = error.reply ?? new Problem(500, "Internal error", "Something went wrong here; it was logged.").reply;
    }
    const key = request.headers["idempotency-key"];
    const text = JSON.stringify(found.body);
    response.writeHead(found.status, {
      "Content-Type": found.status < 400 ? "application/json" : "application/problem+json",
      "Content-Length": Buffer.byteLength(text),
      ...(key && { "Idempotency-Key": key }), // says what it answers, so that the connection can be used again
      ...found.headers,
    });
    response.end(text);
  });
  server.keepAliveTimeout = 35_000; // longer than the orchestrator's, so that it is not us who hang up on a request
  return server;
}

const { values: options } = parseArgs({
  options: {
    port: { type: "string", default: "8100" },
    data: { type: "string", default: "shipping-data" },
    carrier: { type: "string", default: "http://127.0.0.1:8000/sandbox/carrier" },
  },
});
const server = serve(new Shipping(options.data, options.carrier));
server.listen(Number(options.port), "127.0.0.1", () => {
  console.log(JSON.stringify({ url: `http://127.0.0.1:${server.address().port}` }));
});
process.on("SIGTERM", () => {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});

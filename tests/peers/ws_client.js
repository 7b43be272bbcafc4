// A client of the library `ws`: node ws_client.js URL says in JSON what it was sent, as WebsocketsClient does
// in Python: one conversation with compression, which the server closes, and one without, which it closes.
"use strict";

const crypto = require("crypto");
const { WebSocket } = require("ws");

const MIB = 1 << 20;

function digest(kind, data) {
  return [kind, data.length, crypto.createHash("sha256").update(data).digest("hex")];
}

function talk(url, compressed) {
  return new Promise((resolve, reject) => {
    const told = [];
    const socket = new WebSocket(url, { perMessageDeflate: compressed });
    socket.on("error", reject);
    socket.on("open", () => {
      told.push(["extensions", socket.extensions]);
      socket.ping("are you there");
      socket.send("hello");
      socket.send("");
      socket.send("é".repeat(50000));
      socket.send("a", { fin: false });
      socket.send("b".repeat(70000), { fin: false });
      socket.send("c", { fin: true });
      socket.send(Buffer.alloc((compressed ? 1 : 16) * MIB, "0123456789abcdef"));
    });
    socket.on("pong", (data) => told.push(digest("pong", data)));
    socket.on("message", (data, isBinary) => {
      told.push(digest(isBinary ? "binary" : "text", data));
      if (!isBinary) {
        return;
      }
      if (compressed) {
        socket.send("close");
      } else {
        socket.close(4002, "enough");
      }
    });
    socket.on("close", (code, reason) => {
      told.push(["close", code, reason.toString()]);
      resolve(told);
    });
  });
}

(async () => {
  const url = process.argv[2];
  const told = [...(await talk(url, true)), ...(await talk(url, false))];
  process.stdout.write(JSON.stringify(told));
})();

// A web server: node http_server.js PORT. A GET gets 100,000 bytes, of /chunked without their length, and as
// ranges; what is uploaded is described: method, target, size and hash.
"use strict";

const { createHash } = require("crypto");
const { createServer } = require("http");

const content = Buffer.from(Array.from({ length: 100000 }, (_, n) => (n * n) % 251));

function send(request, response) {
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range || "");
  if (request.url === "/chunked") {
    response.write(content.subarray(0, 1000));
    response.end(content.subarray(1000));
  } else if (range && request.method === "GET") {
    const first = Number(range[1]);
    if (first >= content.length) {
      response.writeHead(416, { "Content-Range": `bytes */${content.length}`, "Content-Length": 0 });
      response.end();
      return;
    }
    const last = Math.min(Number(range[2] || content.length - 1), content.length - 1);
    response.writeHead(206, {
      "Content-Range": `bytes ${first}-${last}/${content.length}`,
      "Content-Length": last - first + 1,
    });
    response.end(content.subarray(first, last + 1));
  } else {
    response.writeHead(200, { "Content-Length": content.length, "Accept-Ranges": "bytes" });
    response.end(content);
  }
}

function describe(request, response) {
  const hash = createHash("sha256");
  let size = 0;
  request.on("data", (data) => {
    hash.update(data);
    size += data.length;
  });
  request.on("end", () => {
    const told = { method: request.method, target: request.url, size, sha256: hash.digest("hex") };
    const body = JSON.stringify(told);
    response.writeHead(200, { "Content-Type": "application/json", "Content-Length": body.length });
    response.end(body);
  });
}

createServer((request, response) => {
  (request.method === "GET" || request.method === "HEAD" ? send : describe)(request, response);
}).listen(Number(process.argv[2]), "127.0.0.1");

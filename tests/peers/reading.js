// A web server that says in X-Read, as hex of JSON, what it has read: node reading.js PORT.
"use strict";

const { createServer } = require("http");

createServer({ maxHeaderSize: 65536 }, (request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const read = [request.method, request.url, Buffer.concat(parts).toString("hex")];
    response.writeHead(200, { "X-Read": Buffer.from(JSON.stringify(read)).toString("hex"), "Content-Length": 0 });
    response.end();
  });
}).listen(Number(process.argv[2]), "127.0.0.1");

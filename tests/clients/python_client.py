"""Generates through an adapter with nothing but grpcio and the .proto files.

python_client.py STUBS_DIR HOST:PORT ADAPTER_ID < PROMPT"""
import json, sys

sys.path.insert(0, sys.argv[1])
import grpc
from lorica.v1 import inference_pb2 as pb, inference_pb2_grpc

stub = inference_pb2_grpc.InferenceServiceStub(grpc.insecure_channel(sys.argv[2]))
request = pb.GenerateRequest(adapter_id=sys.argv[3], prompt=sys.stdin.read(), max_tokens=64)
whole = stub.Generate(request, timeout=120)
chunks = stub.GenerateStream(request, timeout=120)
streamed = [token for chunk in chunks for token in chunk.token_ids]
assert list(whole.token_ids) == streamed != [], (whole, streamed)
print(json.dumps([whole.adapter.adapter_id, streamed, whole.text]))

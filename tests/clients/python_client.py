"""Generates through an adapter with nothing but grpcio and the .proto files.

python_client.py STUBS_DIR HOST:PORT [ADAPTER_ID]"""
import sys

sys.path.insert(0, sys.argv[1])
import grpc
from lorica.v1 import inference_pb2 as pb, inference_pb2_grpc

stub = inference_pb2_grpc.InferenceServiceStub(grpc.insecure_channel(sys.argv[2]))
adapter = sys.argv[3] if len(sys.argv) > 3 else ""
request = pb.GenerateRequest(adapter_id=adapter, prompt="Once upon a time", max_tokens=16)
whole = stub.Generate(request, timeout=120)
chunks = stub.GenerateStream(request, timeout=120)
streamed = [token for chunk in chunks for token in chunk.token_ids]
assert whole.adapter.adapter_id == adapter, whole
assert list(whole.token_ids) == streamed != [], (whole, streamed)
print(whole.text)
